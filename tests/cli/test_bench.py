import json
import shlex
from pathlib import Path

import pytest

from di4c_plugin.bench import sweep
from di4c_plugin.bench.cases import LossCase, SampleCase, StepCase, expand
from di4c_plugin.cli.bench import case_options, command
from di4c_plugin.cli.main import main, make_parser
from tests.conftest import Run

SIZES = {"vocab": 300, "positions": 8, "hidden": 16, "threads": 1, "repeats": 1}
SMALL = [f"--{name}={value}" for name, value in SIZES.items()]


def test_it_prints_saves_and_draws(di4c: Run, tmp_path: Path) -> None:
    out = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    run = di4c("bench", "loss", *SMALL, "--latents", "2,3", "--impl", "chunked", *out)
    assert run.returncode == 0, run.stderr
    heading, header, *rows = run.stdout.splitlines()
    assert heading.startswith("loss: vocab 300, positions 8, hidden 16, ")
    assert header.split()[:2] == ["impl", "latents"]
    order = [["chunked", "2"], ["chunked", "3"]]
    assert [row.split()[:2] for row in rows[:2]] == order
    report = json.loads((tmp_path / "a.json").read_text())
    assert set(report) == {"args", "command", "machine", "versions", "results"}
    assert [[r["impl"], str(r["latents"])] for r in report["results"]] == order
    for result in report["results"]:
        assert result["seconds"] > 0
        assert result["max_rel_error"] < 1e-4
    assert report["machine"]["threads"] == 1
    assert report["args"]["latents"] == [2, 3]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_network_call(di4c: Run) -> None:
    sizes = ["--layers", "2", "--heads", "2", "--latent", "token"]
    run = di4c("bench", "sample", *SMALL, *sizes)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[2].split()[0] == "token"


def test_defaults_are_those_of_the_cases() -> None:
    parser = make_parser()
    cases = {
        kind: expand(kind, case_options(parser.parse_args(["bench", kind])))
        for kind in ("loss", "step", "sample")
    }
    assert cases["loss"] == [LossCase(impl=i) for i in ("naive", "checkpoint", "chunked")]
    assert cases["step"] == [StepCase()]
    assert cases["sample"] == [SampleCase(latent=k) for k in ("adaln", "token", "mask_noise")]


@pytest.mark.parametrize(
    "line",
    [
        "loss --latents 4,16 --dtype bfloat16 --json 'a b.json'",
        "step --blocks 1,all --matmul high --batch 2",
        "sample --latent token --device cuda:1",
    ],
)
def test_the_kept_command_measures_the_same(line: str) -> None:
    parser = make_parser()
    args = parser.parse_args(["bench", *shlex.split(line)])
    program, *again = shlex.split(command(args))
    assert program == "di4c"
    assert parser.parse_args(again) == args


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: what; see di4c bench --help"),
        ("loss --latents 4,x", "argument --latents: takes numbers separated by commas, not '4,x'"),
        ("loss --impl naive,", "argument --impl: takes words separated by commas, not 'naive,'"),
        ("loss --impl fast", "unknown implementation 'fast'; there are "),
        ("loss --latents 0", "latents must be at least 1, not 0"),
        ("loss --vocab all", "only --blocks can be all"),
        ("loss --masked 2", "masked must be in (0, 1], not 2.0"),
        ("loss --plot a.png", "--plot needs several values of a size, for example "),
        ("loss --plot a.pdf --latents 1,2", "pictures are PNG files: a.pdf must end in .png"),
        ("step --dtype int8", "argument --dtype: invalid choice: 'int8' "),
        ("sample --plot a.png", "unrecognized arguments: --plot a.png"),
        ("loss --device abacus", "device 'abacus' cannot be used: "),
    ],
)
def test_mistakes_give_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", *line.split()]) == 2
    _, err = capsys.readouterr()
    assert err.startswith(f"di4c: error: {message}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_was_measured_stays_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"ratio": 1.0, "ratio_spread": 0.1, "teacher_seconds": 1.0, "student_seconds": 1.0}
    answers = iter([values])

    def run_child(*args: object, **options: object) -> dict[str, float]:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(sweep, "run_child", run_child)
    path = tmp_path / "a.json"
    assert main(["bench", "sample", "--json", str(path)]) == 130
    assert capsys.readouterr().err == "di4c: interrupted\n"
    assert len(json.loads(path.read_text())["results"]) == 1
