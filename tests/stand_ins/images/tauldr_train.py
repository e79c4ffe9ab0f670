"""What tauLDR's train.py does with the functions that we replace, around a network of ours."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from di4c_plugin.programs.tauldr.bookkeeping import keep_whole
from di4c_plugin.programs.tauldr.step import Di4CStep
from di4c_plugin.programs.tauldr.training import Di4CLoss, make_student
from tests.stand_ins.images.small_tauldr import S
from tests.stand_ins.images.trainers import GaussianModel

BATCH = torch.randint(S, (4, 3, 4, 4), generator=torch.Generator().manual_seed(7))


class Writer(dict[str, float]):
    def add_scalar(self, name: str, value: Any, update: int) -> None:
        self[name] = float(value)


def started(cfg: Any, place: Path) -> tuple[Any, Any, Any]:
    """As train.py starts: model, loss, state."""
    model = GaussianModel(place)
    make_student(model, cfg)
    loss = type("Di4C", (Di4CLoss,), {"root": place})(cfg)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return model, loss, {"model": model, "optimizer": optimizer, "n_iter": 0}


def bookkeeping() -> Any:
    """The host's module: its own functions fail where a run is ours."""
    module: Any = ModuleType("lib.utils.bookkeeping")
    module.save_checkpoint = module.resume_training = None
    module.setup_preemption = lambda *arguments: None
    keep_whole(module)
    return module


def train(
    cfg: Any,
    place: Path,
    out: Path,
    *,
    resume: bool,
    every: int = 1,
    before: Callable[[int], object] = lambda update: None,
) -> dict[str, Any]:
    """Run or resume in a folder; return the model's state. `before` is called with each update."""
    torch.manual_seed(0)
    module, step = bookkeeping(), Di4CStep(cfg)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    model, loss, state = started(cfg, place)
    module.setup_preemption(out, out / "checkpoints", state, 2, True)
    if resume:
        state = module.resume_training(out, state, "cpu")
    try:
        while True:
            before(state["n_iter"])
            step.step(state, BATCH, loss, Writer())
            last = state["n_iter"] == cfg.training.n_iters - 1
            if state["n_iter"] % every == 0 or last:
                module.save_checkpoint(out / "checkpoints", state, 2)
            state["n_iter"] += 1
            if state["n_iter"] > cfg.training.n_iters - 1:
                break
    finally:
        model.di4c_run.lock.close()  # as with the process
    found: dict[str, Any] = model.state_dict()
    return found
