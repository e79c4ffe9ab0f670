import pytest

from di4c_plugin.announce import announce_once


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    announce_once.cache_clear()
    for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_a_line_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("one", "other", "one"):
        announce_once(line)
    assert capsys.readouterr() == ("", "di4c: one\ndi4c: other\n")


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "SLURM_PROCID"])
def test_only_the_first_process_speaks(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "0")
    announce_once("first")
    monkeypatch.setenv(name, "1")
    announce_once("second")
    assert capsys.readouterr().err == "di4c: first\n"
