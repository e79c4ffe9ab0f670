from pathlib import Path

import pytest

from di4c_plugin.cli.main import main
from di4c_plugin.programs import launch


def test_everything_behind_the_program_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(launch, "launch", lambda *arguments: seen.append(arguments))
    assert main(["run", "main.py", "algo=di4c", "--cfg", "job", "-h"]) == 0
    assert seen == [("main.py", ["algo=di4c", "--cfg", "job", "-h"])]


def test_a_wrong_program_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "main.py")]) == 2
    assert capsys.readouterr() == ("", f"di4c: error: no such program: {tmp_path / 'main.py'}\n")


def test_help_tells_our_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(flag in text for flag in ("--sampler NAME", "--student PATH", "--sampler-option"))
