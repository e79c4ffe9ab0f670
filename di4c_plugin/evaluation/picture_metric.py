"""The contract of metrics of pictures; those of tokens are functions (samples, reference) -> float.

A plugin registers a subclass of `PictureMetric` under `di4c_metrics`. It is constructed once for a
run of `di4c evaluate`, with the reference, and called for each number of steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

Batches = Iterator[Tensor]


@dataclass(frozen=True)
class Reference:
    """The pictures that samples are compared with.

    Attributes:
        name: of the set of pictures.
        resizing: how they were resized.
        size: (C, H, W) of the pictures, and of the samples.
        batches: starts to read them: pictures (B, C, H, W), uint8.
    """

    name: str
    resizing: str
    size: tuple[int, int, int]
    batches: Callable[[], Batches]


@dataclass(frozen=True)
class MetricOptions:
    """The user's options for a metric of pictures.

    Attributes:
        weights: file of the feature extractor's weights; None: where its library keeps them.
        statistics: file with statistics of the reference, read if it is there, else written.
        device: where to compute.
    """

    weights: Path | None = None
    statistics: Path | None = None
    device: str = "cpu"


class PictureMetric(ABC):
    """Compares pictures with a reference."""

    columns: tuple[str, ...]
    """Names of the values, the most important first."""

    @abstractmethod
    def __init__(self, reference: Reference, options: MetricOptions) -> None:
        """Read the reference, or its statistics; raises UserError."""

    @abstractmethod
    def __call__(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """Return the values by `columns` for pictures (B, C, H, W), uint8; raises UserError."""

    @abstractmethod
    def notes(self) -> dict[str, str]:
        """Return what a reader of the values must know, such as reference and resizing."""
