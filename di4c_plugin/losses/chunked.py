r"""The terms chunk by chunk with a backward pass by hand, of hidden states and a head.

With L = log p (N, c, S) of a chunk, w_n = p_n / \sum_m p_m and upstream gradients g of the terms,

    dLoss/dL[n] = -w_n (g_data q + g_consis q_s) - g_distil q / N + g_ell at the targets =: A,
    dLoss/dlogits = A - p \sum_s A,

so a chunk needs its logits once more and nothing else: between the passes only h, the targets and
the drawn x_s are kept. Gradients of the head accumulate in place. The gradient could not be taken
in the forward pass already: g_ell, a softmax over lambda of sums over all positions, is known only
after every chunk.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import ChunkTargets, Targets, chunk_targets, chunk_terms, chunks
from di4c_plugin.losses.prediction import Hidden, Prediction


def chunked(student: Prediction, targets: Targets, max_bytes: int) -> list[Tensor]:
    """Return the fields of `PositionTerms`; raises UserError if the student is not `Hidden`."""
    if not isinstance(student, Hidden):
        raise UserError("loss=chunked needs a student with hidden states and a head")
    parts = chunks(student, targets, max_bytes)
    head = (student.h, student.weight, student.bias)
    return list(_Chunked.apply(*head, student, targets, parts))  # type: ignore[no-untyped-call]


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
            of = chunk_targets(targets, part)
            x_s.put(part, [] if of.x_s is None else [of.x_s])
            terms.put(part, chunk_terms(student.log_p(part), student.active(part), of))
        drawn = x_s.whole[0] if x_s.whole else None
        ctx.student, ctx.targets, ctx.parts = student, replace(targets, x_s=drawn), parts
        return tuple(terms.whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        student: Hidden = ctx.student
        of_head = HeadGradients(student, ctx.needs_input_grad)
        with torch.no_grad(), torch.autocast(student.h.device.type, enabled=False):
            for part in ctx.parts:
                of = chunk_targets(ctx.targets, part)
                of_head.add(part, logit_gradient(student, part, of, [g[..., part] for g in grads]))
        return of_head.h, of_head.weight, of_head.bias, None, None, None


class Filled:
    """Tensors (..., P) that are filled part by part.

    Were the parts kept and joined in the end, they would lie between the memory of freed chunks,
    which could then not be used again as a whole.
    """

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.whole: list[Tensor] = []

    def put(self, part: slice, values: list[Tensor]) -> None:
        """Write values (..., c)."""
        if not self.whole:
            self.whole = [v.new_empty(*v.shape[:-1], self.positions) for v in values]
        for whole, value in zip(self.whole, values, strict=True):
            whole[..., part] = value


def logit_gradient(student: Hidden, part: slice, of: ChunkTargets, grads: list[Tensor]) -> Tensor:
    """Return dLoss/dlogits, (N, c, S), from the upstream gradients of `chunk_terms`."""
    active, log_p = student.active(part), student.log_p(part)
    g_ell, g_distil, g_data, *g_consis = [g.to(log_p.dtype).where(active, 0) for g in grads]
    q = of.q.exp().to(log_p.dtype)
    dense = g_data.unsqueeze(-1) * q
    if of.q_s is not None:
        dense = torch.addcmul(dense, g_consis[1].unsqueeze(-1), of.q_s.exp().to(log_p.dtype))
    a = (log_p - log_p.logsumexp(0)).exp_().mul_(dense.neg_())
    a.sub_(q.mul_(g_distil.unsqueeze(-1) / len(log_p)))
    scatter_add(a, of.x_0, g_ell)
    if of.x_s is not None:
        scatter_add(a, of.x_s, g_consis[0])
    total = a.sum(-1, keepdim=True)
    return a.addcmul_(log_p.exp_(), total, value=-1)


def scatter_add(a: Tensor, x: Tensor, g: Tensor) -> None:
    """Add g (N, J, c) to a (N, c, S) at the tokens x (J, c), in place."""
    a.scatter_add_(-1, x.T.expand(len(a), -1, -1), g.transpose(1, 2))


class HeadGradients:
    """Gradients of (h, weight, bias), as far as they are asked for, summed over chunks."""

    def __init__(self, student: Hidden, needed: tuple[bool, ...]) -> None:
        self.student = student
        self.h, self.weight, self.bias = (
            torch.zeros_like(value) if value is not None and need else None
            for value, need in zip(
                (student.h, student.weight, student.bias), needed[:3], strict=True
            )
        )

    def add(self, part: slice, of_logits: Tensor) -> None:
        """Add what the gradient of a chunk's logits, (N, c, S), gives."""
        rows = of_logits.flatten(0, 1)
        if self.h is not None:
            self.h[:, part] = (of_logits @ self.student.weight).to(self.h.dtype)
        if self.weight is not None:
            h = self.student.h[:, part].to(rows.dtype).flatten(0, 1)
            self.weight.addmm_(rows.T, h)
        if self.bias is not None:
            self.bias += rows.sum(0)
