"""Rotary position embedding: `flash_attn.layers.rotary` of flash-attn 2, the half-split form.

Su et al., RoFormer (2021). Everything out of place, so that it is safe under autograd: the hosts
use what `apply_rotary_emb_qkv_` returns.
"""

import torch
from torch import Tensor


def apply_rotary_emb_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (B, D, heads, width) by the angles of cos and sin, each (D, r/2) or (B, D, r/2).

    Component i < r/2 turns with component i + r/2; those from r on stay: (B, D, heads, width).
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second, rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return torch.cat(turned, dim=-1)


def apply_rotary_emb_qkv_(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries and keys of qkv (B, D, 3, heads, width), not the values: the same shape."""
    q, k, v = qkv.unbind(2)
    cos, sin = cos[: qkv.shape[1]], sin[: qkv.shape[1]]
    turned = [apply_rotary_emb_torch(part, cos, sin) for part in (q, k)]
    return torch.stack([*turned, v], dim=2)
