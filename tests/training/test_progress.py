import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from di4c_plugin.training.progress import ShowProgress


def show(console: Console, seconds: float, done: tuple[int, ...], what: str = "") -> None:
    """Play a run of 20 updates that is shown at the updates `done`."""
    trainer: Any = SimpleNamespace(global_step=0, max_steps=20, is_global_zero=True)
    module: Any = SimpleNamespace(latest={"loss": 1.23456, "distil": 0.5})
    progress = ShowProgress(console, seconds, what)
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


def test_words_stand_in_the_place_of_the_terms() -> None:
    out, bar = io.StringIO(), io.StringIO()
    show(Console(file=out, width=40), 0.0, (20,), "Di4C")
    assert out.getvalue() == "Di4C: 20 of 20 updates, about 0 s left\n"
    show(Console(file=bar, force_terminal=True, width=120), 0.0, (20,), "Di4C")
    assert "Di4C" in bar.getvalue()
    assert "loss" not in bar.getvalue()


@pytest.mark.parametrize(("name", "colours"), [("NO_COLOR", False), ("OTHER", True)])
def test_a_bar_is_without_colours_where_none_are_wanted(
    name: str, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    show(Console(file=out, force_terminal=True, width=120), 0.0, (1, 20))
    assert bool(re.search(r"\x1b\[[39]\dm", out.getvalue())) == colours


def test_there_is_none_where_nobody_wants_to_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in ("0", "1"):
        monkeypatch.setenv("DI4C_QUIET", quiet)
        show(ShowProgress(seconds=0.0).console, 0.0, (20,))
        assert bool(capsys.readouterr().err) == (quiet == "0")


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
