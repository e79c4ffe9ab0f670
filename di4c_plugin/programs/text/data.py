"""The host's own order of training examples, continued by a resumed run.

The hosts' samplers restart, or change their seed, when a run of one process is resumed. Here the
host's sampler runs once per epoch, with torch's generator seeded by seed and epoch, and the
examples that the run has seen are skipped.
"""

import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Sampler

from di4c_plugin.announce import announce
from di4c_plugin.training.rng import epoch_generator


class Position(Protocol):
    """The position of a run: the epoch, and the examples of it that all processes have seen."""

    epoch: int
    examples: int


class ResumedSampler(Sampler[int]):
    """The order of another sampler, as a function of seed and epoch, from a run's position on.

    Args:
        sampler: the host's sampler, of this process.
        batch: examples per batch of this process.
        drop_last: whether an incomplete batch is dropped.
        seed: of the order.
        world_size: the number of processes.
        position: read when an iterator is made; moved to the next epoch if none are left.
    """

    def __init__(
        self,
        sampler: Any,
        batch: int,
        *,
        drop_last: bool,
        seed: int,
        world_size: int,
        position: Position,
    ) -> None:
        self.sampler, self.position = sampler, position
        self.seed, self.world_size = seed, world_size
        self.least = batch if drop_last else 1

    def __len__(self) -> int:
        """Return the examples of an epoch, as the host's sampler counts them."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the rest of the epoch."""
        position = self.position
        if len(self.sampler) - position.examples // self.world_size < self.least:
            position.epoch, position.examples = position.epoch + 1, 0
        return iter(self._order(position.epoch)[position.examples // self.world_size :])

    def _order(self, epoch: int) -> list[int]:
        seed = epoch_generator(self.seed, epoch).initial_seed()
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        if getattr(self.sampler, "generator", None) is not None:
            self.sampler.generator.manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return list(self.sampler)


def resume_order(trainer: Trainer, position: Position, seed: int) -> None:
    """Let a run that has begun go through its data from `position`; call it in `on_train_start`.

    The loader keeps its workers, collation, pinning and number of batches.
    """
    loop: Any = trainer.fit_loop
    loader = training_loader(trainer)
    sampler = ResumedSampler(
        sampler_of(loader),
        batch_size(loader),
        drop_last=drops_last(loader),
        seed=seed,
        world_size=trainer.world_size,
        position=position,
    )
    loop._combined_loader.flattened = [reordered(loader, sampler)]
    iter(loop._data_fetcher)  # Lightning has made its iterator by then
    # It can be resumed in the middle of an epoch, without Lightning's help.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before")


def reordered(loader: DataLoader[object], sampler: Sampler[int]) -> DataLoader[object]:
    """Return the host's loader with another order."""
    return DataLoader(
        loader.dataset,
        batch_size=batch_size(loader),
        sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        drop_last=drops_last(loader),
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        persistent_workers=loader.persistent_workers,
    )


def training_loader(trainer: Trainer) -> DataLoader[object]:
    """Return the loader of a run that has begun."""
    loop: Any = trainer.fit_loop
    return loop._combined_loader.flattened[0]


def batch_size(loader: DataLoader[object]) -> int:
    """Return the examples per batch of this process.

    After Lightning replaces the sampler, only the batch sampler has the size.
    """
    return int(loader.batch_size or loader.batch_sampler.batch_size)  # type: ignore[union-attr]


def drops_last(loader: DataLoader[object]) -> bool:
    """Return whether an incomplete batch is dropped."""
    return bool(getattr(loader.batch_sampler, "drop_last", loader.drop_last))


def sampler_of(loader: DataLoader[object]) -> Any:
    """Return the sampler of a loader, or of its batch sampler."""
    return getattr(loader.batch_sampler, "sampler", loader.sampler)


def count_anew(trainer: Trainer, state: Any) -> None:
    """Recount the batches of this epoch if the batch size has changed.

    Args:
        trainer: of a run that has begun; its counters, restored from a checkpoint, are updated.
        state: a `RunState`.
    """
    size = batch_size(training_loader(trainer)) * trainer.world_size
    before, state.size = state.size, size
    if before in (0, size):
        if not before:  # a new run, or one of an earlier version
            state.examples = state.batches * size
        return
    announce(f"warning: a batch had {before} examples, and has {size} now")
    ended = state.batches > 0 and state.examples == 0
    state.batches = int(trainer.num_training_batches) if ended else state.examples // size
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = state.batches
