"""An endless, shuffled, sharded stream of batches in which batch i is a function of i alone.

A resumed run therefore continues with exactly the next batch, even in the middle of an epoch, and
no state needs saving.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from di4c_plugin.algorithms.base import Batch, Data
from di4c_plugin.training.rng import epoch_generator


@dataclass(frozen=True)
class MicroBatch:
    """One process's batch of micro-step `step`, counted from 0 over the whole run."""

    step: int
    batch: Batch

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the same on `device`."""
        parts = (self.batch.x_0, self.batch.cond, self.batch.given)
        moved = [None if part is None else part.to(device) for part in parts]
        return MicroBatch(self.step, Batch(*moved))  # type: ignore[arg-type]


class BatchStream(IterableDataset[MicroBatch]):
    """All epochs, each in its own order, cut into batches without a remainder.

    A batch may span two epochs, so any batch size works with any amount of data. In each micro-step
    the processes take consecutive batches.

    Args:
        data: M >= 1 examples.
        batch_size: examples for each process and micro-step.
        seed: of the shuffling.
        rank: of this process, among `world_size`.
        start: the first micro-step.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.rank, self.world_size, self.start = rank, world_size, start
        # Consecutive batches span at most two epochs, unless the data are smaller than a batch; an
        # order then costs nothing.
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def __iter__(self) -> Iterator[MicroBatch]:
        return (MicroBatch(step, self.batch(step)) for step in itertools.count(self.start))

    def batch(self, step: int) -> Batch:
        """Return this process's batch of micro-step `step`, cut to its longest example."""
        index, data = self.indices(step), self.data
        end = None if data.lengths is None else int(data.lengths[index].max())
        given = None if data.given is None else data.given[index, :end]
        labels = None if data.labels is None else data.labels[index].long()
        return Batch(data.x_0[index, :end].long(), labels, given)

    def indices(self, step: int) -> Tensor:
        """Return the indices of the batch's examples, shape (batch_size,)."""
        size = len(self.data.x_0)
        first = (step * self.world_size + self.rank) * self.batch_size
        position = torch.arange(first, first + self.batch_size)
        epochs = range(first // size, (first + self.batch_size - 1) // size + 1)
        return torch.cat([self._order(e)[position[position // size == e] % size] for e in epochs])

    def _shuffle(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.data.x_0), generator=epoch_generator(self.seed, epoch))
