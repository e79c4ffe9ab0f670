"""A measured value with its standard error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """One value.

    Attributes:
        value: the measured value.
        error: its standard error, or None.
        n: number of sequences, pictures or seeds.
    """

    value: float
    error: float | None = None
    n: int | None = None


def shown(figure: Figure) -> str:
    """Return a value as text, with its standard error where there is one."""
    error = "" if figure.error is None else f" ±{digits(figure.error, 2)}"
    return f"{digits(figure.value)}{error}"


def digits(value: float, count: int = 4) -> str:
    """Return a number with so many digits, without an exponent below 10^9."""
    return f"{value:.0f}" if 10 ** (count - 1) <= abs(value) < 1e9 else f"{value:.{count}g}"


def mean_figure(values: Tensor | Sequence[float]) -> Figure:
    """Return the mean of independent values (n,), with its standard error from n = 2 on."""
    x = torch.as_tensor(values, dtype=torch.float64)
    error = float(x.std() / math.sqrt(len(x))) if len(x) > 1 else None
    return Figure(float(x.mean()), error, len(x))


def ratio_figure(totals: Tensor, counts: Tensor) -> Figure:
    """Return sum of totals / sum of counts, both (n,) by sequence, float64.

    The standard error is the delta method's: that of the residuals totals - ratio * counts.
    """
    n, ratio = len(totals), float(totals.sum() / counts.sum())
    if n < 2:
        return Figure(ratio, None, n)
    residuals = totals - ratio * counts
    error = float((residuals.square().sum() / (n - 1) / n).sqrt() / counts.mean())
    return Figure(ratio, error, n)


def pooled(figures: Sequence[Figure]) -> Figure:
    """Return the mean over seeds, with the standard error over seeds; for one seed, its own."""
    if len(figures) == 1:
        return figures[0]
    return mean_figure([figure.value for figure in figures])
