"""Runs to be killed: `python -m tests.campaigns.killed HULL FOLDER` says "go" and trains.

In each hull a run of a second or so, with a checkpoint after every update; in hosts two rounds.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.stand_ins.images import checkouts, tauldr_train
from tests.stand_ins.images.small_tauldr import CONFIG as TAULDR
from tests.stand_ins.images.small_tauldr import Part
from tests.stand_ins.images.trainers import GaussianModel
from tests.stand_ins.text import stand_in
from tests.training import toy

UPDATES = 24
CONFIG = TrainingConfig(
    steps=UPDATES, batch_size=2, accumulate=2, checkpoint_every=1, logger="none"
)


class Says(toy.Distil):
    def losses(self, *arguments: Any) -> Any:
        go()
        return super().losses(*arguments)


def go() -> None:
    sys.stdout.write("go\n")
    sys.stdout.flush()


def ours(out: Path, *, resume: bool) -> dict[str, Tensor]:
    """Our own loop."""
    student = toy.student()
    options: dict[str, Any] = {"resume": resume, "progress": False}
    method = Says(student.process)
    return toy.weights(train(method, student, toy.teacher(), toy.data(), CONFIG, out, **options))


class Go(Callback):
    def on_train_batch_start(self, *arguments: Any) -> None:
        go()


def text(out: Path, *, resume: bool) -> dict[str, Tensor]:
    """The hull of MDLM, SDTT and Duo."""
    module: LightningModule = stand_in.student(stand_in.distilling(rounds=2))
    saving = {"every_n_train_steps": 1, "save_last": True}
    trainer: Any = stand_in.trainer(out, saving, max_steps=UPDATES, limit_val_batches=0)
    trainer.callbacks.append(Go())
    last = out / "last.ckpt"
    start = last if resume and last.is_file() else None
    trainer.fit(module, stand_in.loader(), ckpt_path=start)
    return module.state_dict()


def tauldr(out: Path, *, resume: bool) -> dict[str, Tensor]:
    """The loop of tauLDR's train.py."""
    place = out.parent / "tauldr"
    if not place.exists():
        checkouts.empty_checkout(place)
        checkouts.stand_in(place, "tauldr")
    teacher = out.parent / "teacher.pt"
    if not teacher.exists():
        torch.manual_seed(1)
        torch.save({"model": GaussianModel(place).state_dict()}, teacher)
    options = {"latents": 2, "states": 2, "min_time": 0.05, "delta": 0.05, "delta_share": None}
    cfg: Any = SimpleNamespace(
        loss=Part(name="Di4C", teacher=str(teacher), options=options, rounds=2),
        training=Part(n_iters=UPDATES // 2, clip_grad=True, warmup=2),
        optimizer=Part(lr=1e-3),
        distributed=False,
        **{name: dict(part) for name, part in TAULDR.items()},
    )
    found = tauldr_train.train(cfg, place, out, resume=resume, before=lambda update: go())
    means = {f"mean {k}": p for k, p in enumerate(found["ema_shadow_params"])}
    return means | {name: p for name, p in found.items() if isinstance(p, Tensor)}


HULLS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "ours": ours,
    "text": text,
    "tauldr": tauldr,
}

if __name__ == "__main__":
    HULLS[sys.argv[1]](Path(sys.argv[2]), resume=Path(sys.argv[2]).exists())
