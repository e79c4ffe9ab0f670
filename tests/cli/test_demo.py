import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin import demo
from di4c_plugin.algorithms.base import LossTerms
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.api import load_student
from di4c_plugin.cli.main import main
from tests.conftest import Run

UPDATES = 6
QUICK = ("demo", "--quick", "--steps", str(UPDATES), "--seed", "1")
RUN = {"run.json", "config.yaml", "last.ckpt"}
STUDENT = {"student.safetensors"}
FILES = RUN | STUDENT | {demo.REPORT, demo.PLOT, demo.SHEET, demo.PROGRESS}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure with few samples."""
    recipe = demo.recipe
    monkeypatch.setattr(demo, "recipe", lambda *a, **how: replace(recipe(*a, **how), samples=8))


def interrupt_update(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come in update `number`, from 1."""
    losses, calls = Di4C.losses, 0

    def interrupted(*args: Any, **kwargs: Any) -> LossTerms:
        nonlocal calls
        calls += 1
        if calls == number:
            signal.raise_signal(signal.SIGINT)
        return losses(*args, **kwargs)

    monkeypatch.setattr(Di4C, "losses", interrupted)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def report(folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((folder / demo.REPORT).read_text())
    return found


@pytest.fixture(scope="module")
def finished(di4c: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo that was not interrupted: its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "run"
    run = di4c(*QUICK, "--out", str(out))
    assert run.returncode == 0, run.stderr
    return out, run.stdout


@pytest.mark.slow
def test_the_demo_leaves_report_pictures_and_student(finished: tuple[Path, str]) -> None:
    out, _ = finished
    assert files(out) == FILES
    assert report(out)["seed"] == 1
    assert files(out / demo.DMMD) == RUN | STUDENT
    steps = {name: list(map(int, line)) for name, line in report(out)["fd"].items()}
    assert steps == {"teacher": [1, 2, 4, 8, 16], "Di4C": [1, 2, 4, 8], "D-MMD": [4]}
    for student in (out / "student.safetensors", out / demo.DMMD / "student.safetensors"):
        assert load_student(student).info["training"]["steps"] == UPDATES
    for name in (demo.PLOT, demo.SHEET, demo.PROGRESS):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_demo_prints_the_numbers_of_the_report(finished: tuple[Path, str]) -> None:
    out, printed = finished
    header, *rows = [line.split("\t") for line in printed.splitlines() if "\t" in line]
    assert header[1:4] == ["teacher FD", "Di4C FD", "D-MMD FD"]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16"]
    for row in rows:
        fds = [line.get(row[0]) for line in report(out)["fd"].values()]
        for cell, fd in zip(row[1:4], fds, strict=True):
            assert (float(cell) == pytest.approx(fd, abs=0.06)) if fd else cell == ""
    assert {str(path) for path in demo.written_files(out)} <= {*printed.splitlines()}


@pytest.mark.slow
def test_an_interrupted_demo_resumes_to_the_same_numbers(
    finished: tuple[Path, str],
    di4c: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    interrupt_update(3, monkeypatch)
    assert main([*QUICK, "--out", str(out)]) == 128 + signal.SIGINT
    kept = f"di4c: interrupted after update 3; kept {out / 'last.ckpt'}; --resume goes on"
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == kept
    assert "loss" not in told  # words for newcomers; the terms are in the log
    assert f"{out / demo.PROGRESS} shows digits by now: teacher" in told
    assert files(out) == RUN | {demo.PROGRESS}
    assert di4c(*QUICK, "--out", str(out), "--resume").returncode == 0
    assert report(out)["fd"] == report(finished[0])["fd"]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_folder_is_used_again_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(seed: int, *options: str) -> int:
        demo = ["demo", "--quick", "--steps", "1", "--seed", str(seed), "--out", str(tmp_path)]
        return main([*demo, *options])

    assert run(0) == 0
    first = report(tmp_path)
    capsys.readouterr()
    assert run(1) == 2
    taken = f"{tmp_path} holds another run; choose another --out, or --overwrite it"
    assert capsys.readouterr() == ("", f"di4c: error: {taken}\n")
    assert report(tmp_path) == first
    assert run(0, "--resume") == 0  # nothing is left to train
    assert report(tmp_path)["fd"] == first["fd"]
    assert run(1, "--overwrite") == 0
    assert report(tmp_path)["seed"] == 1
    assert files(tmp_path) == FILES


@pytest.mark.usefixtures("small")
def test_quiet_prints_the_results_only_and_json_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = tmp_path / "run", tmp_path / "report.json"
    quiet = ["demo", "--quick", "--steps", "1", "--out", str(out), "--quiet", "--json", str(path)]
    assert main(quiet) == 0
    assert capsys.readouterr().err == ""
    written = [str(each) for each in demo.written_files(out)]
    assert json.loads(path.read_text()) == {**report(out), "files": written}


FIRST = """
import os, sys
from di4c_plugin.cli.main import main

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            os._exit(0)

sys.meta_path.insert(0, Torch())
main(["demo"])
"""


@pytest.mark.parametrize(("said", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_are_told_to_wait_passively_before_torch_is_loaded(
    said: str | None, found: str, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if said is None else {"OMP_WAIT_POLICY": said}
    command = [sys.executable, "-u", "-c", FIRST]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == f"{found}\n"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["student.safetensors", demo.REPORT, demo.SHEET])
def test_files_of_the_user_are_in_the_way(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    for more in ([], ["--overwrite"], ["--resume"]):
        assert main(["demo", "--quick", "--steps", "1", "--out", str(tmp_path), *more]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"di4c: error: {tmp_path / name} is in the way, and no run wrote")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.usefixtures("small")
def test_a_demo_that_has_not_begun_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["demo", "--quick", "--steps", "1", "--out", str(out), "--resume"]) == 0
    assert f"di4c: nothing to resume in {out}: starting at update 0\n" in capsys.readouterr().err
    assert files(out) == FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps must be at least 1, not 0"),
        (["--steps", "few"], "argument --steps: invalid int value: 'few'; see di4c demo --help"),
        (["--seed", "-1"], "seed must be at least 0, not -1"),
        (
            ["--resume", "--overwrite"],
            "argument --overwrite: not allowed with argument --resume; see di4c demo --help",
        ),
        (
            ["--quick", "--full"],
            "argument --full: not allowed with argument --quick; see di4c demo --help",
        ),
        (["--out", "file"], "file is not a folder"),
        (["--out", "file/run"], "file is not a folder"),
    ],
)
def test_wrong_options_give_one_line_and_write_nothing(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["demo", "--out", "run", *options]) == 2
    assert capsys.readouterr().err == f"di4c: error: {message}\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
