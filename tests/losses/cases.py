"""Hidden states, heads and targets with random numbers, and how far two results are apart."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.losses.terms import PositionTerms, Targets, example_terms, position_terms
from di4c_plugin.networks.predictions import Hidden

TERMS = [field.name for field in fields(PositionTerms)]


def token_process(tokens: int) -> Absorbing:
    """A mask that is one of the tokens, unless nothing but one token would be left."""
    return Absorbing(tokens, mask=tokens - 1) if tokens > 2 else Absorbing(tokens)


class Case:
    """N predictions at P positions of S tokens, as hidden states of width H, and their targets.

    A third of the positions is revealed, in the target's states more. `teachers` and `data` are the
    lambda of the teacher and J.
    """

    def __init__(
        self,
        n: int,
        p: int,
        s: int,
        *,
        width: int = 5,
        teachers: int = 1,
        data: int = 2,
        process: Process | None = None,
        dtype: torch.dtype = torch.float64,
        bias: bool = True,
        target: bool = True,
        revealed: float = 0.3,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.process = process or token_process(s)
        self.shape, self.dtype, self.width = (n, p, s), dtype, width
        self.mask = getattr(self.process, "mask", None)
        x_t = self.states(1, revealed)
        t = torch.rand(p, generator=self.generator, dtype=torch.float64) * 0.9 + 0.1
        weight, offset = self.normal(s, width) * scale, self.normal(s)
        own = offset if bias else None

        def prediction(count: int, x: Tensor, time: Tensor) -> Hidden:
            return Hidden(self.normal(count, p, width), weight, own, x, time, self.process)

        self.teacher = prediction(teachers, x_t, t)
        self.target = prediction(n, self.later(x_t), t * 0.9)
        self.student = Hidden(
            self.normal(n, p, width).requires_grad_(),
            weight.clone().requires_grad_(),
            None if own is None else own.clone().requires_grad_(),
            x_t,
            t,
            self.process,
        )
        u = torch.rand(n, p, generator=self.generator, dtype=torch.float64)
        self.targets = Targets(self.tokens(data), self.teacher)
        if target:
            self.targets = replace(self.targets, target=self.target, u=u)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return values.to(self.dtype)

    def tokens(self, rows: int) -> Tensor:
        """Clean tokens (rows, P), never the mask."""
        _, p, s = self.shape
        if self.mask is None or self.mask == s:
            return torch.randint(s, (rows, p), generator=self.generator)
        x = torch.randint(s - 1, (rows, p), generator=self.generator)
        return x + (x >= self.mask)

    def states(self, rows: int, revealed: float) -> Tensor:
        """States (rows, P); of masked diffusion, with that share of them revealed."""
        x = self.tokens(rows)
        if self.mask is None:
            return x
        order = torch.rand(x.shape, generator=self.generator).argsort(-1)
        return x.where(order < round(revealed * self.shape[1]), self.mask)

    def later(self, x_t: Tensor) -> Tensor:
        """States (N, P) after a step from x_t: some of the masks have opened."""
        x = self.states(self.shape[0], 0.4)
        return x if self.mask is None else x.where(x_t == self.mask, x_t)

    @property
    def leaves(self) -> list[Tensor]:
        """What is differentiated: h, weight and bias, if there is one."""
        head = (self.student.h, self.student.weight, self.student.bias)
        return [leaf for leaf in head if leaf is not None]

    def budget(self, positions: int) -> int:
        """The bytes that make chunks of so many positions."""
        counts = [p.count for p in (self.student, self.teacher, self.targets.target) if p]
        return 12 * max(counts) * self.shape[2] * positions

    def terms(self, implementation: str, max_bytes: int = 1 << 40) -> PositionTerms:
        """The terms at each position."""
        return position_terms(
            self.student, self.targets, implementation=implementation, max_bytes=max_bytes
        )

    def results(self, implementation: str, max_bytes: int = 1 << 40) -> list[Tensor]:
        """A loss that every term enters with a weight of its own, and its gradients."""
        return with_gradients(self.loss(self.terms(implementation, max_bytes)), self.leaves)

    def loss(self, terms: PositionTerms, examples: int = 2) -> Tensor:
        """Both of what examples sum up, and of each position."""
        p = self.shape[1]
        example = torch.arange(p) * examples // max(p, 1)
        found = example_terms(terms, example, examples)
        values = [v for _, v in sorted(found.items())]
        values += [v for v in tensors(terms) if v.numel()]
        shares = torch.Generator().manual_seed(9)
        return torch.stack(
            [
                (torch.rand(v.shape, generator=shares, dtype=torch.float64).to(v) * v).mean()
                for v in values
            ]
        ).sum()


def tensors(terms: PositionTerms) -> list[Tensor]:
    """The terms there are."""
    return [getattr(terms, name) for name in TERMS if getattr(terms, name) is not None]


def with_gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The loss and its gradients."""
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def error(found: Any, wanted: Any) -> float:
    """The largest difference of each tensor in the unit of its largest entry; the worst of all."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        if other.numel():
            unit = float(other.detach().abs().max())
            apart = float((one.detach() - other.detach()).abs().max())
            worst = max(worst, apart / unit if unit else apart)
    return worst
