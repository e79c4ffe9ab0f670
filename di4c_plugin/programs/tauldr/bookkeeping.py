"""Checkpoints of tauLDR's train.py where it runs a method of ours: whole, and exact to go on from.

The host saves `n_iter` before it counts the update that it has made, so that this update would be
made twice; it keeps nothing of a round; it reads whichever checkpoint is the last, however damaged.
Its names of files, and what `scripts/sample.py` reads in them, stay.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError
from di4c_plugin.files import unfinished
from di4c_plugin.training.checkpoint_file import first_intact, write_checkpoint
from di4c_plugin.training.lock import held

SIGNALS = (signal.SIGCONT, signal.SIGINT, signal.SIGTERM)


@dataclass
class Run:
    """Where a run stands; `make_student` makes it, an attribute `di4c_run` of the host's model.

    Attributes:
        total: updates of the whole run.
        updates: that are done.
        teacher: fingerprint of the weights of the first teacher; "" until it is known.
        round: from 0.
        weights: of this round's teacher; None in the first.
        stepping: whether an update is being made, which a signal may not cut in two.
        waiting: what to do when it is done.
        lock: on the folder, until the process ends.
    """

    total: int
    updates: int = 0
    teacher: str = ""
    round: int = 0
    weights: dict[str, Tensor] | None = None
    stepping: bool = False
    waiting: Callable[[], Any] | None = None
    lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Let signals wait while the block makes an update."""
        self.stepping, self.waiting = True, None
        try:
            yield
        finally:
            self.stepping = False
        if self.waiting is not None:
            self.waiting()


def run_of(model: Any) -> Run | None:
    """Return where the run of a host's model stands; None if it is no student of ours."""
    return getattr(model, "di4c_run", None)


def save(folder: Path, state: dict[str, Any], run: Run, keep: int) -> None:
    """Write the checkpoint of the host's name, then remove all but `keep`; this one stays.

    Raises:
        UserError: when the system refuses.
    """
    model = state["model"]
    if not model.training:  # a signal came while the averages are in the place of the weights
        model.train()
    path = folder / f"ckpt_{state['n_iter']:010d}.pt"
    round_state = {"teacher": run.teacher, "round": run.round, "weights": run.weights}
    content = {"model": model.state_dict(), "optimizer": state["optimizer"].state_dict()}
    numbers = {"n_iter": state["n_iter"], "global_step": run.updates}
    write_checkpoint(content | numbers | {"di4c": round_state}, path)
    others = [file for file in checkpoints(folder) if file != path]
    for file in others[max(keep - 1, 0) :]:
        file.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("ckpt_*.pt"), reverse=True)


def resume(folder: Path, state: dict[str, Any], run: Run, device: Any) -> None:
    """Go on from the newest checkpoint that is whole; from the start where there is none.

    Raises:
        UserError: if all are damaged, or of another model.
        SystemExit: if the run has ended.
    """
    paths, model = checkpoints(folder), state["model"]
    if not paths:
        announce(f"no checkpoint in {folder}: starting at 0")
        return
    path, content = first_intact(paths[0], paths[1:], "remove this run's folder to start again")
    try:
        weights = content["model"]
        means = weights["ema_shadow_params"]
        model.load_state_dict(weights | {"ema_shadow_params": [p.to(device) for p in means]})
        state["optimizer"].load_state_dict(content["optimizer"])
        state["n_iter"] = run.updates = content.get("global_step", content["n_iter"] + 1)
        round_state = content.get("di4c", {"teacher": "", "round": 0, "weights": None})
        run.teacher, run.round, run.weights = (
            round_state["teacher"],
            round_state["round"],
            round_state["weights"],
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not of a run with this config") from error
    if run.updates >= run.total:
        announce(f"the run in {folder.parent} has ended: {run.total} updates are done")
        sys.exit(0)


def hold(folder: Path, checkpoint_folder: Path, run: Run) -> None:
    """Keep other runs out of a run's folder, and clear what killed ones left half-written.

    Raises:
        UserError: if another run is there.
    """
    run.lock.enter_context(held(folder))
    for file in checkpoint_folder.glob(".ckpt_*.pt"):
        whole = file.with_name(f"{file.name[1:].partition('.')[0]}.pt")
        if file in unfinished(whole):
            file.unlink(missing_ok=True)


def let_signals_wait(run: Run) -> None:
    """Have the host's handlers, which save and exit, be called between updates."""

    def postponed(handler: Any, number: int, frame: FrameType | None) -> None:
        if run.stepping:
            run.waiting = partial(handler, number, frame)
        else:
            handler(number, frame)

    for number in SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, partial(postponed, handler))


def keep_whole(module: ModuleType) -> None:
    """Put the functions above into `lib.utils.bookkeeping`, for runs of a method of ours."""
    host: Any = module
    host_save, host_resume, host_setup = (
        host.save_checkpoint,
        host.resume_training,
        host.setup_preemption,
    )

    def save_checkpoint(checkpoint_dir: Path, state: Any, num_checkpoints_to_keep: int) -> None:
        run = run_of(state["model"])
        if run is None:
            host_save(checkpoint_dir, state, num_checkpoints_to_keep)
        else:
            save(Path(checkpoint_dir), state, run, num_checkpoints_to_keep)

    def resume_training(resume_path: Path, state: Any, mapping: Any) -> Any:
        run = run_of(state["model"])
        if run is None:
            return host_resume(resume_path, state, mapping)
        resume(Path(resume_path) / "checkpoints", state, run, mapping)
        return state

    def setup_preemption(save_dir: Path, checkpoint_dir: Path, state: Any, *rest: Any) -> None:
        run = run_of(state["model"])
        if run is not None:
            hold(Path(save_dir), Path(checkpoint_dir), run)
        host_setup(save_dir, checkpoint_dir, state, *rest)
        if run is not None:
            let_signals_wait(run)

    host.save_checkpoint, host.resume_training = save_checkpoint, resume_training
    host.setup_preemption = setup_preemption
