"""Adapters in two processes: `python -m tests.families.hf.adapter_ranks FOLDER RANK`."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from di4c_plugin import distill
from di4c_plugin.networks.sharing import own_state
from tests.families.hf.adapters import METHODS
from tests.families.hf.snapshots import load_teacher

RANKS, PER_RANK, MICRO_STEPS, UPDATES, DIES, SEED = 2, 2, 2, 3, 2, 5
# At another temperature than the auxiliary's the student learns from the first update on.
DMMD = {"name": "dmmd", "temperature": 2.0}
CASES = METHODS | {"dmmd": DMMD | {"together": True}, "alternating": DMMD}


class Died(Exception):
    """An end without a last checkpoint."""


class Dies(Callback):
    def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == DIES:
            raise Died


class Gradients(Callback):
    """Those of the first update, over all processes and micro-steps, by role and name."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if trainer.global_step == 0:
            self.found = gradients(module.engine)


def gradients(engine: Any) -> dict[str, Tensor]:
    return {
        f"{role} {name}": parameter.grad.clone()
        for role, network in engine.trained_networks.items()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def work(folder: Path, rank: int) -> None:
    """Each method whole, and one that dies and is resumed; the first process leaves what it saw."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(RANKS)}
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # read when Lightning is imported
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=RANKS
    )
    teacher = load_teacher(folder / "teacher")
    host = {"name": "hf", "data": str(folder / "texts.jsonl")}
    training = {
        **{"steps": UPDATES, "batch_size": PER_RANK, "accumulate": MICRO_STEPS, "seed": SEED},
        **{"devices": RANKS, "accelerator": "cpu", "strategy": "ddp", "adapter": {"r": 3}},
        **{"clip": 0, "checkpoint_every": 1},
    }

    def run(out: str, algo: dict[str, Any], *callbacks: Callback, **more: Any) -> dict[str, Tensor]:
        options: dict[str, Any] = {"host": host, "algo": algo, "training": training, **more}
        student = distill(teacher, out=folder / out, progress=False, callbacks=callbacks, **options)
        return own_state(student.denoiser)

    for case, algo in CASES.items():
        first = Gradients()
        whole = run(f"{case} whole", algo, first)
        with suppress(Died):
            run(f"{case} broken", algo, Dies())
        assert not (folder / f"{case} broken" / "adapter_model.safetensors").exists()
        resumed = run(f"{case} broken", algo, resume=True)
        if rank == 0:
            found = {"gradients": first.found, "whole": whole, "resumed": resumed}
            torch.save(found, folder / f"{case}.pt")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
    # As in tests/losses/test_distributed.py.
    os._exit(0)
