import sys

import pytest

from di4c_plugin.evaluation import progress
from di4c_plugin.evaluation.progress import tracked


def test_a_short_evaluation_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(5), "batches")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_a_long_one_prints_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert list(tracked("abcdef", "batches scored")) == list("abcdef")
    assert capsys.readouterr().err.splitlines() == [
        "di4c: batches scored: 1 of 6, about 400 s left",  # one in 80 s
        "di4c: batches scored: 3 of 6, about 160 s left",  # three in 160 s
        "di4c: batches scored: 5 of 6, about 48 s left",
    ]


def test_of_items_without_a_length_it_counts_those_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    assert list(tracked(iter("abcd"), "batches of pictures")) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "di4c: batches of pictures: 1",
        "di4c: batches of pictures: 3",
    ]


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "DI4C_QUIET"])
def test_other_processes_and_quiet_ones_print_none(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv(variable, "1")
    assert len(list(tracked(range(9), "batches"))) == 9
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_comes_and_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    seen = []
    for item in tracked(range(3), "runs[1]: batches"):
        seen.append(item)
    written = capsys.readouterr()
    assert seen == [0, 1, 2]
    assert written.out == ""
    assert "runs[1]: batches" in written.err
    assert written.err.endswith(("\x1b[2K", "\x1b[1A\x1b[2K", "\x1b[?25h\r\x1b[1A\x1b[2K"))
