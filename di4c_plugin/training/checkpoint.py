"""Our checkpoints as Lightning's: the last one of a run, also when a signal interrupts it.

Lightning's own `ModelCheckpoint` cannot finish the current update before it saves on a signal.
"""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from di4c_plugin.training.checkpoint_file import read_checkpoint, write_checkpoint
from di4c_plugin.training.data import MicroBatch
from di4c_plugin.training.interrupt import SignalFlag


class LastCheckpoint(Callback):
    """Saves every `every` updates, after the last one, and when a signal asks the run to stop.

    Attributes:
        path: None for a run that keeps no files.
        began: whether training has started, so that any checkpoint is restored.
        stopped: after the fit, whether a signal ended it; `flag.signum` says which signal, on the
            processes that got it.
    """

    def __init__(self, path: Path | None, every: int, flag: SignalFlag) -> None:
        self.path, self.every, self.flag = path, every, flag
        self.began = self.stopped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle signals instead of Lightning, which has just installed its handlers."""
        self.began = True
        self.flag.listen()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Save a checkpoint if one is due."""
        if (batch.step + 1) % trainer.accumulate_grad_batches:
            return
        # All processes stop after the same update, whichever of them got the signal.
        self.stopped = trainer.strategy.reduce_boolean_decision(
            self.flag.signum is not None, all=False
        )
        last = self.stopped or trainer.global_step == trainer.max_steps
        if self.path is not None and (last or trainer.global_step % self.every == 0):
            trainer.save_checkpoint(self.path)
        trainer.should_stop |= self.stopped


class CheckpointFiles(CheckpointIO):
    """Makes Lightning's Trainer use the functions of `checkpoint_file` for local files.

    Args:
        previous: see `write_checkpoint`.
    """

    def __init__(self, previous: Path | None = None) -> None:
        self.previous = previous

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write_checkpoint(checkpoint, Path(path), previous=self.previous)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
