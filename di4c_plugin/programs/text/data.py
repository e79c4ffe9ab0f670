"""The order of training examples as a function of seed and position.

The hosts' own samplers start anew, or from another seed, when a run of one process is resumed; this
one goes on at the next example.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from di4c_plugin.errors import UserError
from di4c_plugin.training.rng import epoch_generator


class ResumableSampler(Sampler[int]):
    """The examples of one of `world_size` processes, in an order that a resumed run repeats.

    It counts epochs by itself: Lightning's counter slips where a run is resumed between two.

    Args:
        size: examples in the data set. What does not fill a batch in each process is left out,
            other examples in every epoch.
        batch: examples of a batch.
        seed: of the order.
        rank: this process.
        world_size: how many there are.
        position: called when an iterator is made, returns the batches that have been trained on.

    Raises:
        UserError: if there is not a batch for each process.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        *,
        seed: int,
        rank: int,
        world_size: int,
        position: Callable[[], int],
    ) -> None:
        self.size, self.batch, self.seed = size, batch, seed
        self.rank, self.world_size, self.position = rank, world_size, position
        self.batches = size // world_size // batch
        if not self.batches:
            raise UserError("a process has fewer training examples than one batch needs")

    def __len__(self) -> int:
        """The examples of a whole epoch."""
        return self.batches * self.batch

    def __iter__(self) -> Iterator[int]:
        """As many examples, from the present position, be it in the middle of an epoch."""
        epoch, batch = divmod(self.position(), self.batches)
        begin = batch * self.batch
        order = torch.cat([self._epoch(epoch), self._epoch(epoch + 1)])
        return iter(order[begin : begin + len(self)].tolist())

    def _epoch(self, epoch: int) -> Tensor:
        order = torch.randperm(self.size, generator=epoch_generator(self.seed, epoch))
        return order[self.rank :: self.world_size][: len(self)]


def reordered(loader: DataLoader[object], sampler: ResumableSampler) -> DataLoader[object]:
    """Return the host's loader with another order; its workers, collation and pinning stay."""
    return DataLoader(
        loader.dataset,
        batch_size=batch_size(loader),
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=True,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        persistent_workers=loader.persistent_workers,
    )


def training_loader(trainer: Trainer) -> DataLoader[object]:
    """Return the loader of a run that has begun."""
    loop: Any = trainer.fit_loop
    return loop._combined_loader.flattened[0]


def replace_training_loader(trainer: Trainer, loader: DataLoader[object]) -> None:
    """Give a run that has begun another loader, from `on_train_start`.

    By then Lightning has counted the batches of an epoch and made its iterator: both again.
    """
    loop: Any = trainer.fit_loop
    loop._combined_loader.flattened = [loader]
    loop.max_batches = min(loop.max_batches, len(loader))
    if isinstance(trainer.val_check_interval, float):
        share = trainer.val_check_interval
        trainer.val_check_batch = max(1, int(loop.max_batches * share))
    iter(loop._data_fetcher)
    # It can be resumed in the middle of an epoch, without Lightning's help.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")


def batch_size(loader: DataLoader[object]) -> int:
    """Return how many examples a batch of this process has.

    Where Lightning has put its own sampler into the loader only the batch sampler knows.
    """
    return int(loader.batch_size or loader.batch_sampler.batch_size)  # type: ignore[union-attr]
