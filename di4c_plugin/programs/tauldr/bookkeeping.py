"""Atomic checkpoints of our methods in tauLDR's train.py, which resume exactly.

The host saves `n_iter` before it counts the finished update, so that a resumed run would repeat it;
it does not save rounds; and it reads the last checkpoint even if that is damaged. File names, and
the entries that `scripts/sample.py` reads, stay.
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
from di4c_plugin.training.recorded import compare

SIGNALS = (signal.SIGCONT, signal.SIGINT, signal.SIGTERM)


@dataclass
class Run:
    """The state of a run, the attribute `di4c_run` of the host's model, from `make_student`.

    Attributes:
        total: updates of the whole run.
        settings: of the run, from `settings.recorded`.
        updates: the number of updates done.
        teacher: fingerprint of the first teacher's weights; "" until known.
        start: that of the student to continue from, "" if there is none; None until known.
        round: from 0.
        weights: of this round's teacher; None in the first round.
        stepping: whether an update is in progress, which a signal must not interrupt.
        waiting: the signal handler to call after the update.
        lock: on the folder, until the process ends.
    """

    total: int
    settings: dict[str, str]
    updates: int = 0
    teacher: str = ""
    start: str | None = None
    round: int = 0
    weights: dict[str, Tensor] | None = None
    stepping: bool = False
    waiting: Callable[[], Any] | None = None
    lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Defer signals until the update in the block is finished."""
        self.stepping, self.waiting = True, None
        try:
            yield
        finally:
            self.stepping = False
        if self.waiting is not None:
            self.waiting()


def run_of(model: Any) -> Run | None:
    """Return the run of a host's model; None if it is not a student of ours."""
    return getattr(model, "di4c_run", None)


def save(folder: Path, state: dict[str, Any], run: Run, keep: int) -> None:
    """Write a checkpoint under the host's name, then remove the oldest beyond `keep`.

    Raises:
        UserError: if the system refuses.
    """
    model = state["model"]
    if not model.training:  # a signal arrived while the averages replaced the weights
        model.train()
    path = folder / f"ckpt_{state['n_iter']:010d}.pt"
    entry = {"teacher": run.teacher, "round": run.round, "weights": run.weights}
    entry |= {"start": run.start, "settings": run.settings}
    content = {"model": model.state_dict(), "optimizer": state["optimizer"].state_dict()}
    numbers = {"n_iter": state["n_iter"], "global_step": run.updates}
    write_checkpoint(content | numbers | {"di4c": entry}, path)
    others = [file for file in checkpoints(folder) if file != path]
    for file in others[max(keep - 1, 0) :]:
        file.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(folder.glob("ckpt_*.pt"), reverse=True)


def resume(folder: Path, state: dict[str, Any], run: Run, device: Any) -> None:
    """Resume from the newest intact checkpoint; start if there is none.

    Raises:
        UserError: if all are damaged, or of another model or method.
    """
    paths, model = checkpoints(folder), state["model"]
    if not paths:
        announce(f"no checkpoint in {folder}: starting at 0")
        return
    path, content = first_intact(paths[0], paths[1:], "remove this run's folder to start again")
    try:
        entry = content.get("di4c", {"teacher": "", "round": 0, "weights": None})
        compare(entry.get("settings"), run.settings, "cfg.loss.student = CHECKPOINT")
        weights = content["model"]
        means = weights["ema_shadow_params"]
        model.load_state_dict(weights | {"ema_shadow_params": [p.to(device) for p in means]})
        state["optimizer"].load_state_dict(content["optimizer"])
        state["n_iter"] = run.updates = content.get("global_step", content["n_iter"] + 1)
        run.start = entry.get("start")
        run.teacher, run.round, run.weights = entry["teacher"], entry["round"], entry["weights"]
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not of a run with this config") from error


def end(run: Run) -> None:
    """Leave the process if all updates of a resumed run are done; raises SystemExit."""
    if run.updates >= run.total:
        announce(f"the run has ended: {run.total} updates are done")
        sys.exit(0)


def hold(folder: Path, checkpoint_folder: Path, run: Run) -> None:
    """Lock a run's folder, and remove the temporary files of killed runs.

    Raises:
        UserError: if another run has the folder.
    """
    run.lock.enter_context(held(folder))
    for file in checkpoint_folder.glob(".ckpt_*.pt"):
        path = file.with_name(f"{file.name[1:].partition('.')[0]}.pt")
        if file in unfinished(path):
            file.unlink(missing_ok=True)


def let_signals_wait(run: Run) -> None:
    """Defer the host's signal handlers, which save and exit, to the end of an update."""

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
    """Install the functions above in `lib.utils.bookkeeping`, for runs of our methods."""
    host: Any = module
    host_save, host_resume = host.save_checkpoint, host.resume_training
    host_setup = host.setup_preemption

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
