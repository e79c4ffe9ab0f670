"""Keeps the last checkpoint of a run, and the one before, also when it is interrupted.

Lightning's own `ModelCheckpoint` cannot finish an update before it saves on a signal.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from di4c_plugin.training.data import MicroBatch
from di4c_plugin.training.interrupt import SignalFlag


class LastCheckpoint(Callback):
    """Saves every `every` updates, at the last one, and when a signal asks to stop.

    `path` is None for a run that keeps no files. `began` tells whether a checkpoint to resume from
    has been restored. After the fit, `stopped` tells whether a signal
    ended it, and `flag.signum` which, on the processes that got it.
    """

    def __init__(self, path: Path | None, every: int, flag: SignalFlag) -> None:
        self.path, self.every, self.flag = path, every, flag
        self.began = self.stopped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, in place of Lightning, which has just begun to."""
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
        """Save when it is time to."""
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
