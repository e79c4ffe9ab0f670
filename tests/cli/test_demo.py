import json
import signal
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
FILES = RUN | {"student.safetensors", demo.REPORT, demo.PLOT, demo.SHEET}


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
    assert report(out)["fd"].keys() == {"teacher", "student", "hybrid"}
    for line in report(out)["fd"].values():
        assert list(line) == ["1", "2", "4", "8", "16"]
    assert load_student(out / "student.safetensors").info["training"]["steps"] == UPDATES
    for name in (demo.PLOT, demo.SHEET):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_demo_prints_the_numbers_of_the_report(finished: tuple[Path, str]) -> None:
    out, printed = finished
    rows = [line.replace("│", " ").split() for line in printed.splitlines() if "│" in line]
    assert [row[0] for row in rows] == [str(steps) for steps in demo.STEPS]
    for row in rows:
        fds = [report(out)["fd"][name][row[0]] for name in demo.SAMPLERS]
        assert [float(cell) for cell in row[1:4]] == pytest.approx(fds, abs=0.06)
    assert str(out / demo.REPORT) in printed.splitlines()


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
    assert capsys.readouterr().err.splitlines()[-1] == kept
    assert files(out) == RUN
    assert di4c(*QUICK, "--out", str(out), "--resume").returncode == 0
    assert report(out)["fd"] == report(finished[0])["fd"]


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
@pytest.mark.parametrize("name", ["student.safetensors", demo.REPORT, demo.SHEET])
def test_files_of_the_user_are_in_the_way(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    for more in ([], ["--overwrite"], ["--resume"]):
        assert main(["demo", "--quick", "--steps", "1", "--out", str(tmp_path), *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"di4c: error: {tmp_path / name} is in the way, and no run wrote")
        assert error.count("\n") == 1
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
