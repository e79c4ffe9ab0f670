"""A Lightning callback that hosts load by `+callbacks.trace=…`: losses of every batch, and a kill.

Each process appends lines of JSON to its own file, flushed, so that nothing is lost with it.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Trace(Callback):
    """Writes loss, a sum over the batch and gradient norm of each batch; may kill its process.

    Args:
        folder: where rank0.jsonl and so on are written.
        kill_at: kill the process of rank `kill_rank`, without warning, after so many updates of a
            run from its beginning.
    """

    def __init__(self, folder: str, kill_at: int = -1, kill_rank: int = 0) -> None:
        self.folder, self.kill_at, self.kill_rank = Path(folder), kill_at, kill_rank
        self.norm, self.start = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        gradients = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.norm = float(torch.stack(gradients).norm())

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        line = {
            "step": trainer.global_step,
            "batch": batch_idx,
            "loss": float(outputs["loss"]),
            "data": int(batch["input_ids"].sum()),
            "norm": self.norm,
        }
        with (self.folder / f"rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if (
            trainer.global_step == self.kill_at
            and trainer.global_rank == self.kill_rank
            and self.start == 0
        ):
            os.kill(os.getpid(), signal.SIGKILL)


def read(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """The lines that the process of that rank wrote."""
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()]
