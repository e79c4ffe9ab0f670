"""Quality and speed of a sampler at a number of steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from di4c_plugin.evaluation.frechet import frechet_distance

Metric = Callable[[Tensor, Tensor], float]


class Draw(Protocol):
    """Draws samples (n, D) in the given number of steps."""

    def __call__(self, *, steps: int) -> Tensor:
        """Return the samples."""
        ...


@dataclass(frozen=True)
class Cell:
    """One measurement: the metric's value, wall seconds a sample, and the samples (n, D)."""

    sampler: str
    steps: int
    value: float
    seconds: float
    samples: Tensor


def measure(
    name: str, steps: int, draw: Draw, reference: Tensor, metric: Metric = frechet_distance
) -> Cell:
    """Sample once, with timing, and compare with the reference data (m, D)."""
    samples, seconds = timed(draw, steps)
    return Cell(name, steps, metric(samples, reference), seconds, samples)


def timed(draw: Draw, steps: int) -> tuple[Tensor, float]:
    """Return samples (n, D) and the wall seconds for each of them."""
    start = time.perf_counter()
    samples = draw(steps=steps)
    return samples, (time.perf_counter() - start) / len(samples)
