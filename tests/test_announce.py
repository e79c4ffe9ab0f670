import pytest

from di4c_plugin.announce import announce, announce_once


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    announce_once.cache_clear()
    for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_a_line_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("one", "other", "one"):
        announce_once(line)
    assert capsys.readouterr() == ("", "di4c: one\ndi4c: other\n")


def test_a_line_may_be_told_again_and_never_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        announce("a\x1b[2J\nb")
    assert capsys.readouterr().err == 2 * "di4c: a\\x1b[2J\\nb\n"


def test_nobody_is_told_who_wants_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in ("", "0", "1"):
        monkeypatch.setenv("DI4C_QUIET", quiet)
        announce(f"quiet is {quiet!r}")
    assert capsys.readouterr().err == "di4c: quiet is ''\ndi4c: quiet is '0'\n"


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "SLURM_PROCID"])
def test_only_the_first_process_speaks(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "0")
    announce_once("first")
    monkeypatch.setenv(name, "1")
    announce_once("second")
    assert capsys.readouterr().err == "di4c: first\n"
