import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from di4c_plugin.training.progress import ShowProgress


def show(console: Console, seconds: float, done: tuple[int, ...]) -> None:
    """Play a run of 20 updates that is shown at the updates `done`."""
    trainer: Any = SimpleNamespace(global_step=0, max_steps=20, is_global_zero=True)
    module: Any = SimpleNamespace(latest={"loss": 1.23456, "distil": 0.5})
    progress = ShowProgress(console, seconds)
    progress.on_train_start(trainer, module)
    for trainer.global_step in done:
        progress.on_train_batch_end(trainer, module, None, None, 0)
    progress.teardown(trainer, module, "fit")


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 3), (1000.0, 1)])
def test_without_a_terminal_lines_come_now_and_then(seconds: float, lines: int) -> None:
    out = io.StringIO()
    show(Console(file=out, width=40), seconds, (0, 1, 7, 20))
    printed = out.getvalue().splitlines()
    assert len(printed) == lines
    assert printed[-1] == "update 20/20  loss 1.235  distil 0.5  0 s left"


def test_on_a_terminal_there_is_a_bar_with_the_terms() -> None:
    out = io.StringIO()
    show(Console(file=out, force_terminal=True, width=120), 0.0, (1, 20))
    assert "20/20" in out.getvalue()
    assert "loss 1.235  distil 0.5" in out.getvalue()


def test_other_processes_are_silent() -> None:
    out = io.StringIO()
    trainer: Any = SimpleNamespace(global_step=0, max_steps=1, is_global_zero=False)
    progress = ShowProgress(Console(file=out, force_terminal=True), 0.0)
    progress.on_train_start(trainer, SimpleNamespace(latest={}))  # type: ignore[arg-type]
    trainer.global_step = 1
    progress.on_train_batch_end(trainer, SimpleNamespace(latest={}), None, None, 0)
    assert out.getvalue() == ""
