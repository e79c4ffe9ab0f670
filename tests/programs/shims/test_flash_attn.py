"""The stand-in against attention and rotation written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from di4c_plugin.programs.shims.stand_ins.flash_attn.flash_attn import (
    flash_attn_qkvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from di4c_plugin.programs.shims.stand_ins.flash_attn.flash_attn.layers.rotary import (
    apply_rotary_emb_qkv_,
    apply_rotary_emb_torch,
)

HEADS, WIDTH = 3, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(qkv: Tensor, causal: bool, scale: float) -> Tensor:
    """Softmax attention of one sequence qkv (D, 3, heads, width), position by position."""
    out = torch.zeros_like(qkv[:, 0])
    for head in range(qkv.shape[2]):
        for i in range(len(qkv)):
            seen = range(i + 1 if causal else len(qkv))
            scores = [math.exp(scale * float(qkv[i, 0, head] @ qkv[j, 1, head])) for j in seen]
            for j, score in zip(seen, scores, strict=True):
                out[i, head] += score / sum(scores) * qkv[j, 2, head]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_of_a_batch(causal: bool, scale: float | None) -> None:
    qkv = random(2, 5, 3, HEADS, WIDTH)
    expected = torch.stack([attention(x, causal, scale or WIDTH**-0.5) for x in qkv])
    torch.testing.assert_close(flash_attn_qkvpacked_func(qkv, 0.0, scale, causal), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [5, 1, 6], [12], [2, 4]])
def test_attention_of_sequences_behind_one_another(lengths: list[int], causal: bool) -> None:
    qkv = random(sum(lengths), 3, HEADS, WIDTH)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    out = flash_attn_varlen_qkvpacked_func(qkv, cu_seqlens, max(lengths), 0.0, causal=causal)
    expected = [attention(part, causal, WIDTH**-0.5) for part in qkv.split(lengths)]
    torch.testing.assert_close(out, torch.cat(expected))


def angles(length: int, pairs: int) -> Tensor:
    return torch.arange(length)[:, None] * 10_000.0 ** (-torch.arange(pairs) / pairs).double()


@pytest.mark.parametrize("width", [4, 6])
def test_rotation_of_pairs_as_complex_numbers(width: int) -> None:
    x, angle = random(2, 5, HEADS, width), angles(5, 2)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    turned = torch.complex(x[..., :2], x[..., 2:4]) * turn
    expected = torch.cat([turned.real, turned.imag, x[..., 4:]], dim=-1)
    torch.testing.assert_close(apply_rotary_emb_torch(x, angle.cos(), angle.sin()), expected)
    per_example = angle.expand(2, 5, 2)
    out = apply_rotary_emb_torch(x, per_example.cos(), per_example.sin())
    torch.testing.assert_close(out, expected)


def test_rotation_of_queries_and_keys_only_and_out_of_place() -> None:
    qkv, angle = random(2, 5, 3, HEADS, WIDTH).requires_grad_(), angles(7, 2)
    before = qkv.detach().clone()
    out = apply_rotary_emb_qkv_(qkv, angle.cos(), angle.sin())
    for part in (0, 1):
        expected = apply_rotary_emb_torch(qkv[:, :, part], angle[:5].cos(), angle[:5].sin())
        torch.testing.assert_close(out[:, :, part], expected)
    torch.testing.assert_close(out[:, :, 2], qkv[:, :, 2])
    torch.testing.assert_close(qkv.detach(), before)


def test_gradients() -> None:
    angle = angles(3, 1)

    def whole(qkv: Tensor) -> Tensor:
        turned = apply_rotary_emb_qkv_(qkv, angle.cos(), angle.sin()).flatten(0, 1)
        return flash_attn_varlen_qkvpacked_func(turned, torch.tensor([0, 2, 6]), 4)

    assert torch.autograd.gradcheck(whole, random(2, 3, 3, 1, 2).requires_grad_())
