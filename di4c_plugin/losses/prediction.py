r"""What a denoiser says of P positions, whole or still as hidden states and a head.

The P positions of a batch lie flat, of all examples one after the other; N lambda share them. A
`Hidden` prediction forms log p (N, c, S) for c of them at a time, so that a loss over a vocabulary
of S tokens never holds N x P x S numbers.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from di4c_plugin.diffusion import Process


class Prediction(Protocol):
    """N product models p_{0|t} at P positions."""

    @property
    def count(self) -> int:
        """N."""
        ...

    @property
    def tokens(self) -> int:
        """S."""
        ...

    def log_p(self, part: slice) -> Tensor:
        """Return log p at the positions `part`, shape (N, c, S), fp32 or better, normalised."""
        ...

    def active(self, part: slice) -> Tensor:
        """Return which of the positions `part` are still unknown, bool, (c,)."""
        ...


@dataclass(frozen=True)
class Formed:
    """A prediction that exists: values are log p (N, P, S), unknown is bool (P,)."""

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

    def log_p(self, part: slice) -> Tensor:
        """See `Prediction.log_p`."""
        return self.values[:, part]

    def active(self, part: slice) -> Tensor:
        """See `Prediction.active`."""
        return self.unknown[part]


@dataclass(frozen=True)
class Hidden:
    """A prediction as hidden states and a head; log p is formed in the head's precision.

    Attributes:
        h: hidden states (N, P, H), of any floating dtype.
        weight: the head's (S, H).
        bias: the head's (S,), or None.
        x: the states at the positions, (1 or N, P), int64.
        t: times of the positions, (P,), float64.
        process: whose `restrict`, `with_evidence` and `carry_over` make logits a prediction.
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

    def log_p(self, part: slice) -> Tensor:
        """See `Prediction.log_p`."""
        h = self.h[:, part]
        # Each position as an example of its own: a process looks at one position at a time.
        x, t = (v[..., part].expand(h.shape[:2]).reshape(-1) for v in (self.x, self.t))
        x = x.unsqueeze(1)
        log_p = torch.log_softmax(self.process.with_evidence(self._logits(h), x, t), -1)
        if self.revealed:
            log_p = self.process.carry_over(log_p, x)
        return log_p.view(*h.shape[:2], self.tokens)

    def _logits(self, h: Tensor) -> Tensor:
        """Return logits (N c, 1, S)."""
        with torch.autocast(h.device.type, enabled=False):
            rows = h.to(self.weight.dtype).flatten(0, 1).unsqueeze(1)
            return linear(rows, self.weight, self._bias)

    @property
    def _bias(self) -> Tensor:
        """The bias; tokens that `restrict` makes impossible get there, (S,), not in (N, c, S)."""
        bias = self.weight.new_zeros(self.tokens) if self.bias is None else self.bias
        return self.process.restrict(bias)

    def active(self, part: slice) -> Tensor:
        """See `Prediction.active`: where any of the N is."""
        return self.process.active(self.x[:, part]).any(0)
