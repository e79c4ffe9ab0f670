r"""The terms one lambda at a time, for a student without hidden states: two passes.

The first pass, without gradients, gives \ell and the running sum of p_n over lambda; in the second,
each lambda is predicted again, with gradients, now that the weights w_n = p_n / \sum_m p_m are
known. Memory is that of one lambda, with the network's activations. The second pass is that of
activation checkpointing, which handles dropout, autocast and distributed training.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from di4c_plugin.losses.chunk import ChunkTargets, pick
from di4c_plugin.losses.mixture import kl
from di4c_plugin.networks.recompute import recomputed

Predict = Callable[[], Tensor]


def streamed(students: Iterable[Predict], active: Tensor, targets: ChunkTargets) -> list[Tensor]:
    """Return the fields of `PositionTerms`, differentiable in the students' networks.

    Args:
        students: N functions that return log p_n (P, S); each is called once in the forward pass
            and once in the backward pass.
        active: bool (P,), which positions count.
        targets: the targets at all P positions.
    """
    bar = LogMean()
    shares = [recomputed(_lambda_terms, predict, bar, targets) for predict in students]
    bar.closed = True
    columns = list(zip(*shares, strict=True))
    cross = torch.stack(columns[1]).mean(0)
    terms = [torch.stack(columns[0]), (targets.q.exp() * targets.q).sum(-1) - cross]
    terms.append(kl(targets.q, bar.value) + torch.stack(columns[2]).sum(0))
    if targets.q_s is not None:
        terms.append(torch.stack(columns[3]))
        terms.append(kl(targets.q_s, bar.value) + torch.stack(columns[4]).sum(0))
    return [term.where(active, 0) for term in terms]


class LogMean:
    """The running log (1/N) sum_n p_n of successive predictions (P, S)."""

    def __init__(self) -> None:
        self.closed, self.count = False, 0
        self.total = torch.empty(0)

    def add(self, log_p: Tensor) -> None:
        """Add one lambda to the mean, unless it is closed, as in the second pass."""
        if not self.closed:
            self.total = torch.logaddexp(self.total, log_p) if self.count else log_p
            self.count += 1

    @property
    def value(self) -> Tensor:
        """The log-mean, (P, S)."""
        return self.total - math.log(self.count)


def _lambda_terms(predict: Predict, bar: LogMean, targets: ChunkTargets) -> tuple[Tensor, ...]:
    """Return ell (J, P), the cross-entropy under q (P,), and the gradient's paths to `bar`."""
    log_p = predict()
    cross = (targets.q.exp() * log_p).sum(-1)
    to_data, to_consis = _Share.apply(log_p, bar, targets)  # type: ignore[no-untyped-call]
    terms = (pick(log_p[None], targets.x_0)[0], cross, to_data)
    return terms if targets.x_s is None else (*terms, pick(log_p[None], targets.x_s)[0], to_consis)


class _Share(torch.autograd.Function):
    r"""Zeros (P,) by which d KL(q || \bar p) reaches log p_n: it is -q w_n."""

    @staticmethod
    def forward(
        ctx: Any, log_p: Tensor, bar: LogMean, targets: ChunkTargets
    ) -> tuple[Tensor, Tensor]:
        bar.add(log_p.detach())
        ctx.bar, ctx.targets = bar, targets
        ctx.save_for_backward(log_p)
        zeros = log_p.new_zeros(2, len(log_p))
        return zeros[0], zeros[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_data: Tensor, g_consis: Tensor) -> tuple[Tensor, None, None]:
        (log_p,), targets = ctx.saved_tensors, ctx.targets
        dense = g_data.unsqueeze(-1) * targets.q.exp()
        if targets.q_s is not None:
            dense += g_consis.unsqueeze(-1) * targets.q_s.exp()
        return -dense * (log_p - ctx.bar.total).exp(), None, None
