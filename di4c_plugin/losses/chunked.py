r"""The terms chunk by chunk with an analytic backward pass, from hidden states and a head.

With L = log p (N, c, S) of a chunk, w_n = p_n / \sum_m p_m and upstream gradients g of the terms,

    dLoss/dL[n] = -w_n (g_data q + g_consis q_s) - g_distil q / N + g_ell at the targets =: A,
    dLoss/dlogits = A - p \sum_s A,

so the backward pass only needs a chunk's logits again: between the passes only h, the targets and
the drawn x_s are kept. Gradients of the head accumulate in place. They cannot be computed in the
forward pass: g_ell, a softmax over lambda of sums over all positions, is known only after the last
chunk.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import ChunkTargets, Targets, chunk_targets, chunk_terms, chunks_for
from di4c_plugin.losses.positions import Filled
from di4c_plugin.networks.predictions import Hidden, Prediction


def chunked(student: Prediction, targets: Targets, max_bytes: int) -> list[Tensor]:
    """Return the fields of `PositionTerms`; raises UserError if the student is not `Hidden`."""
    if not isinstance(student, Hidden):
        raise UserError("loss=chunked needs a student with hidden states and a head")
    parts = chunks_for(student, targets, max_bytes)
    return list(_Chunked.apply(*student.leaves, student, targets, parts))  # type: ignore[no-untyped-call]


class _Chunked(torch.autograd.Function):
    """From (h, weight, bias) to the fields of `PositionTerms`."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: Hidden,
        targets: Targets,
        parts: list[slice],
    ) -> tuple[Tensor, ...]:
        terms, x_s = Filled(student.h.shape[1]), Filled(student.h.shape[1])
        for part in parts:
            chunk = chunk_targets(targets, part)
            x_s.put(part, [] if chunk.x_s is None else [chunk.x_s])
            terms.put(part, chunk_terms(student.log_p(part), student.active(part), chunk))
        drawn = x_s.tensors[0] if x_s.tensors else None
        ctx.student, ctx.targets, ctx.parts = student, replace(targets, x_s=drawn), parts
        return tuple(terms.tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        student: Hidden = ctx.student
        sums = [
            torch.zeros_like(leaf) if needed and leaf is not None else None
            for leaf, needed in zip(student.leaves, ctx.needs_input_grad, strict=False)
        ]
        with torch.no_grad(), torch.autocast(student.h.device.type, enabled=False):
            for part in ctx.parts:
                chunk = chunk_targets(ctx.targets, part)
                upstream = [g[..., part] for g in grads]
                student.add_gradients(logit_gradient(student, part, chunk, upstream), part, sums)
        return *sums, None, None, None


def logit_gradient(
    student: Hidden, part: slice, targets: ChunkTargets, grads: list[Tensor]
) -> Tensor:
    """Return dLoss/dlogits, (N, c, S), from the upstream gradients of `chunk_terms`."""
    active, log_p = student.active(part), student.log_p(part)
    g_ell, g_distil, g_data, *g_consis = [g.to(log_p.dtype).where(active, 0) for g in grads]
    q = targets.q.exp().to(log_p.dtype)
    dense = g_data.unsqueeze(-1) * q
    if targets.q_s is not None:
        dense = torch.addcmul(dense, g_consis[1].unsqueeze(-1), targets.q_s.exp().to(log_p.dtype))
    a = (log_p - log_p.logsumexp(0)).exp_().mul_(dense.neg_())
    a.sub_(q.mul_(g_distil.unsqueeze(-1) / len(log_p)))
    scatter_add(a, targets.x_0, g_ell)
    if targets.x_s is not None:
        scatter_add(a, targets.x_s, g_consis[0])
    total = a.sum(-1, keepdim=True)
    return a.addcmul_(log_p.exp_(), total, value=-1)


def scatter_add(a: Tensor, x: Tensor, g: Tensor) -> None:
    """Add g (N, J, c) to a (N, c, S) at the tokens x (J, c), in place."""
    a.scatter_add_(-1, x.T.expand(len(a), -1, -1), g.transpose(1, 2))
