from pathlib import Path

import pytest

from di4c_plugin.cli.main import main
from tests.conftest import HOSTS


def test_what_is_missing_comes_with_the_command_that_fetches_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(tmp_path)]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["host", "what", "why"]
    for host, line in zip(HOSTS, lines, strict=True):
        root = tmp_path / host.name
        assert line.split("\t") == [
            *(host.name, "missing"),
            f"git clone {host.url} {root} && git -C {root} checkout --quiet {host.commit}",
        ]


def test_a_wrong_folder_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "x")]) == 2
    assert capsys.readouterr() == ("", f"di4c: error: no such folder: {tmp_path / 'x'}\n")
