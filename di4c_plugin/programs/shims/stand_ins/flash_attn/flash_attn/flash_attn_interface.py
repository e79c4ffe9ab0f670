"""Attention: `flash_attn.flash_attn_interface` of flash-attn 2 on scaled_dot_product_attention."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_qkvpacked_func(
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Return the attention of qkv (B, D, 3, heads, width): (B, D, heads, width).

    Args:
        qkv: queries, keys and values, stacked along dimension 2.
        dropout_p: share of the attention weights dropped; 0 for evaluation.
        softmax_scale: factor before the softmax; None: 1/√width.
        causal: positions see only themselves and those before.
    """
    q, k, v = qkv.transpose(1, 3).unbind(2)
    out = scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, is_causal=causal, scale=softmax_scale
    )
    return out.transpose(1, 2)


def flash_attn_varlen_qkvpacked_func(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Return attention within each of several sequences that lie behind one another.

    Args:
        qkv: (total, 3, heads, width).
        cu_seqlens: (sequences + 1,), where each begins and the last ends.
        max_seqlen: length of the longest one.
        dropout_p: as in `flash_attn_qkvpacked_func`, also the following.
        softmax_scale: see there.
        causal: see there.

    Returns:
        (total, heads, width).
    """
    lengths = cu_seqlens.diff()
    if max_seqlen * len(lengths) == len(qkv):  # all of one length, as in the hosts: one call
        batch = qkv.unflatten(0, (len(lengths), max_seqlen))
        return flash_attn_qkvpacked_func(batch, dropout_p, softmax_scale, causal).flatten(0, 1)
    parts = [
        flash_attn_qkvpacked_func(part.unsqueeze(0), dropout_p, softmax_scale, causal).squeeze(0)
        for part in qkv.split(lengths.tolist())
    ]
    return torch.cat(parts)
