"""Slow twins: one sequence at a time, attention by loops, in the precision of the network."""

from typing import Any

import torch
from torch import Tensor


def dreamlike_logits(network: Any, x: Tensor, block: int | None) -> Tensor:
    """Return logits (D, V) of one sequence x (D,): each position sees blocks up to its own."""
    base = network.model
    h = base.embed_tokens(x)
    d = len(x)
    inverse = base.rotary_emb.inv_freq.to(h.dtype)
    for layer in base.layers:
        rows = layer.qkv(layer.input_layernorm(h)).view(d, 3, layer.heads, -1)
        out = torch.zeros(d, layer.heads, rows.shape[-1], dtype=h.dtype)
        for head in range(layer.heads):
            q = [_turned(rows[i, 0, head], i, inverse) for i in range(d)]
            k = [_turned(rows[i, 1, head], i, inverse) for i in range(d)]
            for i in range(d):
                seen = [j for j in range(d) if block is None or j // block <= i // block]
                scores = torch.stack([q[i] @ k[j] for j in seen]) / rows.shape[-1] ** 0.5
                values = torch.stack([rows[j, 2, head] for j in seen])
                out[i, head] = scores.softmax(0) @ values
        h = h + layer.o_proj(out.view(d, -1))
        y = layer.post_layernorm(h)
        h = h + sum(expert(y).tanh() for expert in layer.experts)
    return torch.as_tensor(network.lm_head(base.norm(h)))


def shifted(logits: Tensor) -> Tensor:
    """Return (D, V) where row i is of token i, from rows that are of token i + 1."""
    return torch.stack([logits[max(i - 1, 0)] for i in range(len(logits))])


def _turned(x: Tensor, position: int, inverse: Tensor) -> Tensor:
    out = torch.empty_like(x)
    half = len(x) // 2
    for i in range(half):
        c, s = torch.cos(position * inverse[i]), torch.sin(position * inverse[i])
        out[i] = x[i] * c - x[i + half] * s
        out[i + half] = x[i + half] * c + x[i] * s
    return out
