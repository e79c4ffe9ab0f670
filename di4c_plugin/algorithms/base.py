"""What a training method is: given networks and a batch, named loss terms.

An algorithm neither logs nor steps an optimiser; `di4c_plugin.training` and the host adapters do.
Tests: tests/algorithms/.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from di4c_plugin.models.denoiser import Denoiser


@dataclass(frozen=True)
class Data:
    """A data set in memory: x_0 (M, D), whole numbers of any type; labels (M,), int64, or None."""

    x_0: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Clean data: x_0 (B, D), int64; cond (B,), int64, or None."""

    x_0: Tensor
    cond: Tensor | None = None


@dataclass(frozen=True)
class Networks:
    """The networks of an update.

    Attributes:
        student: what is trained.
        teacher: frozen; None for methods that need none.
        target: what stands for the student where gradients stop: itself, or its moving average.
        auxiliary: a second trained network, for alternating methods such as D-MMD.
    """

    student: Denoiser
    teacher: Denoiser | None = None
    target: Denoiser | None = None
    auxiliary: Denoiser | None = None


@dataclass(frozen=True)
class LossTerms:
    """The scalar to differentiate and its parts, detached, in nats per example."""

    total: Tensor
    terms: dict[str, Tensor]


class Algorithm(ABC):
    """A training method."""

    needs_teacher: bool = True
    makes_mixture: bool = True

    def trains(self, update: int) -> str:
        """Name the field of `Networks` that optimiser update `update` (from 0) trains."""
        return "student"

    @abstractmethod
    def losses(
        self, batch: Batch, networks: Networks, *, generator: torch.Generator, progress: float
    ) -> LossTerms:
        """Return the loss terms of one batch.

        Args:
            batch: on the networks' device.
            networks: see `Networks`.
            generator: source of every random draw, on the same device.
            progress: share of the training done, in [0, 1], for annealed quantities.
        """
