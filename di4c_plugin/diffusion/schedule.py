r"""Noise schedules \alpha_t, the probability that a position still carries its data token at t.

Every schedule has \alpha_0 = 1 and, but for those with eps > 0, \alpha_1 = 0. Times run from 0
(data) to 1 (prior) and are evaluated in float64.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.values import Range


class Schedule(Protocol):
    r"""A map t -> \alpha_t, elementwise, decreasing from 1."""

    def alpha(self, t: Tensor) -> Tensor:
        r"""Return \alpha_t in float64, of the shape of `t`."""
        ...


def time_of_share(schedule: Schedule, share: Tensor) -> Tensor:
    r"""Return t with 1 - \alpha_t = share, or 1 where no t reaches it; float64, of its shape."""
    share = share.double()
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(64):
        middle = (low + high) / 2
        fewer = 1 - schedule.alpha(middle) < share
        low, high = torch.where(fewer, middle, low), torch.where(fewer, high, middle)
    return high


@dataclass(frozen=True)
class LogLinear:
    r"""\alpha_t = 1 - (1 - eps) t: the log-linear noise of MDLM (Sahoo et al. 2024).

    MDLM itself uses eps = 1e-3, so that its prior is not quite all masks.
    """

    eps: Annotated[float, Range(0, below=1)] = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return 1 - (1 - self.eps) * t.double()


@dataclass(frozen=True)
class Cosine:
    r"""\alpha_t = cos(\pi t / 2) (MDLM; Shi et al. 2024, list of schedules)."""

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return torch.cos(t.double() * (math.pi / 2)).clamp(0, 1).where(t < 1, 0.0)


@dataclass(frozen=True)
class DuoCosine:
    r"""\alpha_t = 1 - cos(\pi (1 - (1 - eps) t) / 2): Duo's "cosine", MaskGIT's of Chang et al."""

    eps: Annotated[float, Range(0, below=1)] = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        alpha = 1 - torch.cos((1 - (1 - self.eps) * t.double()) * (math.pi / 2))
        return alpha.where(t > 0, 1.0)  # the cosine of a rounded pi / 2 is not quite 0


@dataclass(frozen=True)
class Arccos:
    r"""\alpha_t = 1 - (2/\pi) arccos(1 - t): MaskGIT's "arccos" schedule (Besnier & Chen 2023).

    MaskGIT writes it with the revealed ratio r = 1 - t: a share (2/\pi) arccos(r) is masked.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return 1 - torch.arccos(1 - t.double()) * (2 / math.pi)


@dataclass(frozen=True)
class Root:
    r"""\alpha_t = \sqrt{1 - t}: MaskGIT's "root", a share 1 - \sqrt{r} masked at r = 1 - t."""

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return (1 - t.double()).sqrt()


@dataclass(frozen=True)
class Square:
    r"""\alpha_t = (1 - t)^2: MaskGIT's "square" sampler, a share 1 - r^2 masked at r = 1 - t."""

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return (1 - t.double()) ** 2


@dataclass(frozen=True)
class MaskedSquare:
    r"""\alpha_t = 1 - t^2: a share t^2 is masked, as v1 of Maskgit-pytorch trains by "square"."""

    def alpha(self, t: Tensor) -> Tensor:
        """See `Schedule.alpha`."""
        return 1 - t.double() ** 2


AnySchedule = LogLinear | Cosine | DuoCosine | Arccos | Root | Square | MaskedSquare

# MaskGIT's "linear" is "loglinear" here, its "cosine" is "duo_cosine".
SCHEDULES: dict[str, type[AnySchedule]] = {
    "loglinear": LogLinear,
    "cosine": Cosine,
    "duo_cosine": DuoCosine,
    "arccos": Arccos,
    "root": Root,
    "square": Square,
    "masked_square": MaskedSquare,
}


def time_grid(steps: int, t_min: float = 0.0, *, device: torch.device | None = None) -> Tensor:
    """Return the sampling times 1 = t_0 > t_1 > ... > t_steps = t_min, shape (steps + 1,), float64.

    Raises:
        UserError: if `steps` < 1 or `t_min` is outside [0, 1).
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}")
    if not 0 <= t_min < 1:
        raise UserError(f"t_min must be in [0, 1), not {t_min}")
    return torch.linspace(1, t_min, steps + 1, dtype=torch.float64, device=device)
