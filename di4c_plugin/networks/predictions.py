r"""Predictions of a denoiser at P positions, as log-probabilities or as hidden states and a head.

The P positions of a batch are flat, example after example; N lambda share them. A `Hidden`
prediction forms log p (N, c, S) for c of them at a time, so that a loss over a vocabulary of S
tokens never holds N x P x S numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from di4c_plugin.diffusion import Process

Logits = Callable[[slice], Tensor]


class Prediction(ABC):
    """N product models p_{0|t} at P positions."""

    @property
    @abstractmethod
    def count(self) -> int:
        """N."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """S."""

    @property
    @abstractmethod
    def leaves(self) -> tuple[Tensor | None, ...]:
        """The tensors that receive its gradients."""

    @abstractmethod
    def logits(self, part: slice) -> Tensor:
        """Return the logits of log p at the positions `part`, (N, c, S), fp32 or better."""

    @abstractmethod
    def log_p(self, part: slice, logits: Logits | None = None) -> Tensor:
        """Return log p at the positions `part`, shape (N, c, S), fp32 or better, normalised.

        It is computed from `logits(part)`, by default the prediction's own.
        """

    @abstractmethod
    def active(self, part: slice) -> Tensor:
        """Return which of the positions `part` are still unknown, bool, (c,)."""

    @abstractmethod
    def at(self, index: Tensor) -> "Prediction":
        """Return the prediction at some of the positions, index (P',), int64."""

    @abstractmethod
    def where(self, mask: Tensor, other: "Prediction") -> "Prediction":
        """Return this prediction at the positions `mask`, bool (P,), and `other` elsewhere.

        Both have the same network, the same number of lambda and the same P positions.
        """

    @abstractmethod
    def detached(self) -> "Prediction":
        """Return the prediction without gradient."""

    @abstractmethod
    def add_gradients(self, of_logits: Tensor, part: slice, sums: Sequence[Tensor | None]) -> None:
        """Add the gradients from the positions `part` to those of the `leaves`, in place.

        Args:
            of_logits: the gradient in `logits`, (N, c, S).
            part: positions that have not been added yet.
            sums: of the shapes of the leaves, zero at first; None: not needed.
        """


@dataclass(frozen=True)
class Formed(Prediction):
    """A prediction in memory: values are log p (N, P, S), unknown is bool (P,)."""

    values: Tensor
    unknown: Tensor

    @property
    def count(self) -> int:
        """N."""
        return len(self.values)

    @property
    def tokens(self) -> int:
        """S."""
        return self.values.shape[-1]

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        """See `Prediction.leaves`: the values."""
        return (self.values,)

    def logits(self, part: slice) -> Tensor:
        """See `Prediction.logits`: log p itself."""
        return self.values[:, part]

    def log_p(self, part: slice, logits: Logits | None = None) -> Tensor:
        """See `Prediction.log_p`."""
        return (logits or self.logits)(part)

    def active(self, part: slice) -> Tensor:
        """See `Prediction.active`."""
        return self.unknown[part]

    def at(self, index: Tensor) -> "Formed":
        """See `Prediction.at`."""
        return Formed(self.values.index_select(1, index), self.unknown[index])

    def where(self, mask: Tensor, other: Prediction) -> "Formed":
        """See `Prediction.where`."""
        assert isinstance(other, Formed)
        values = self.values.where(mask.unsqueeze(-1), other.values)
        return Formed(values, self.unknown.where(mask, other.unknown))

    def detached(self) -> "Formed":
        """See `Prediction.detached`."""
        return replace(self, values=self.values.detach())

    def add_gradients(self, of_logits: Tensor, part: slice, sums: Sequence[Tensor | None]) -> None:
        """See `Prediction.add_gradients`."""
        (values,) = sums
        if values is not None:
            values[:, part] = of_logits


@dataclass(frozen=True)
class Hidden(Prediction):
    """A prediction as hidden states and a head; log p is formed in the head's precision.

    Attributes:
        h: hidden states (N, P, H), of any floating dtype.
        weight: the head's (S, H).
        bias: the head's (S,), or None.
        x: the states at the positions, (1 or N, P), int64.
        t: times of the positions, (P,), float64.
        process: its `restrict`, `with_evidence` and `carry_over` turn logits into a prediction.
        revealed: whether some of the positions may be known already; False saves `carry_over`.
    """

    h: Tensor
    weight: Tensor
    bias: Tensor | None
    x: Tensor
    t: Tensor
    process: Process
    revealed: bool = True

    @property
    def count(self) -> int:
        """N."""
        return len(self.h)

    @property
    def tokens(self) -> int:
        """S."""
        return len(self.weight)

    @property
    def leaves(self) -> tuple[Tensor | None, ...]:
        """See `Prediction.leaves`: h, weight and bias."""
        return self.h, self.weight, self.bias

    def logits(self, part: slice) -> Tensor:
        """See `Prediction.logits`."""
        h = self.h[:, part]
        with torch.autocast(h.device.type, enabled=False):
            rows = linear(h.to(self.weight.dtype).flatten(0, 1), self.weight, self._bias)
        return rows.view(*h.shape[:2], self.tokens)

    def log_p(self, part: slice, logits: Logits | None = None) -> Tensor:
        """See `Prediction.log_p`."""
        shape = self.h[:, part].shape[:2]
        # Each position as its own example: a process looks at one position at a time.
        x, t = (v[..., part].expand(shape).reshape(-1) for v in (self.x, self.t))
        x = x.unsqueeze(1)
        # In one expression: named logits would stay in memory.
        log_p = torch.log_softmax(
            self.process.with_evidence(
                (logits or self.logits)(part).view(-1, 1, self.tokens), x, t
            ),
            -1,
        )
        if self.revealed:
            log_p = self.process.carry_over(log_p, x)
        return log_p.view(*shape, self.tokens)

    @property
    def _bias(self) -> Tensor:
        """The bias (S,), in which `restrict` makes tokens impossible, cheaper than in (N, c, S)."""
        bias = self.weight.new_zeros(self.tokens) if self.bias is None else self.bias
        return self.process.restrict(bias)

    def active(self, part: slice) -> Tensor:
        """See `Prediction.active`: where any of the N is."""
        return self.process.active(self.x[:, part]).any(0)

    def at(self, index: Tensor) -> "Hidden":
        """See `Prediction.at`."""
        h, x = (v.index_select(1, index) for v in (self.h, self.x))
        return replace(self, h=h, x=x, t=self.t[index])

    def where(self, mask: Tensor, other: Prediction) -> "Hidden":
        """See `Prediction.where`."""
        assert isinstance(other, Hidden)
        h = self.h.where(mask.unsqueeze(-1), other.h)
        x, t = self.x.where(mask, other.x), self.t.where(mask, other.t)
        return replace(self, h=h, x=x, t=t, revealed=self.revealed or other.revealed)

    def detached(self) -> "Hidden":
        """See `Prediction.detached`."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, h=self.h.detach(), weight=self.weight.detach(), bias=bias)

    def add_gradients(self, of_logits: Tensor, part: slice, sums: Sequence[Tensor | None]) -> None:
        """See `Prediction.add_gradients`; sums over positions are in the head's precision."""
        h, weight, bias = sums
        rows = of_logits.flatten(0, 1)
        if h is not None:
            h[:, part] = (of_logits @ self.weight).to(h.dtype)
        if weight is not None:
            weight.addmm_(rows.T, self.h[:, part].to(rows.dtype).flatten(0, 1))
        if bias is not None:
            possible = self.process.restrict(torch.zeros_like(bias)) == 0
            bias += rows.sum(0).where(possible, 0)
