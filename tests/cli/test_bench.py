import json
import shlex
from pathlib import Path

import pytest

from di4c_plugin.bench import run as bench_run
from di4c_plugin.bench.cases import LossCase, SampleCase, UpdateCase
from di4c_plugin.cli.bench import make_cases
from di4c_plugin.cli.main import main, make_parser
from tests.conftest import Run

SIZES = {"vocab": 300, "positions": 8, "hidden": 16, "threads": 1, "repeats": 1}
SMALL = [f"--{name}={value}" for name, value in SIZES.items()]


@pytest.mark.slow
def test_it_prints_and_saves(di4c: Run, tmp_path: Path) -> None:
    rows = ["--impl", "naive", "--impl", "chunked"]
    run = di4c("bench", "loss", *SMALL, *rows, "--json", str(tmp_path / "a.json"))
    assert run.returncode == 0, run.stderr
    header, naive, chunked, legend = run.stdout.splitlines()
    assert header.split() == ["loss", "peak", "MB", "(ratio)", "seconds", "(ratio)"]
    assert naive.split()[0] == "naive"
    assert naive.split()[2] == "(1.000)"
    assert chunked.split()[0] == "chunked"
    assert legend.startswith("peak: ")
    report = json.loads((tmp_path / "a.json").read_text())
    assert set(report) == {"what", "machine", "results"}
    assert [result["row"] for result in report["results"]] == ["naive", "chunked"]
    assert all(result["seconds"] > 0 and result["vocab"] == 300 for result in report["results"])


@pytest.mark.slow
def test_a_network_call(di4c: Run) -> None:
    sizes = ["--layers", "2", "--heads", "2", "--latent", "token,blocks=1"]
    run = di4c("bench", "sample", *SMALL, *sizes)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].startswith("token,blocks=1 ")


@pytest.mark.parametrize(
    ("line", "cases"),
    [
        ("loss", {i: LossCase(impl=i) for i in ("naive", "checkpoint", "chunked")}),
        ("update", {"di4c": UpdateCase()}),
        (
            "update --adapter none --adapter r=4,targets=[query,key]",
            {
                "di4c  none": UpdateCase(),
                "di4c  r=4,targets=[query,key]": UpdateCase(
                    adapter={"r": 4, "targets": ["query", "key"]}
                ),
            },
        ),
        (
            "update --process uniform --algo dcd",
            {"dcd": UpdateCase(process="uniform", algo={"name": "dcd"})},
        ),
        (
            "update --algo di4c,min_time=1e-3,delta=.5,loss=2020-01-01",
            {
                "di4c,min_time=1e-3,delta=.5,loss=2020-01-01": UpdateCase(
                    algo={"name": "di4c", "min_time": 1e-3, "delta": 0.5, "loss": "2020-01-01"}
                )
            },
        ),
        ("sample --teacher a.ckpt", {"default": SampleCase(teacher="a.ckpt")}),
        (
            "update --algo di4c,loss=naive,latents=8 --algo dmmd --latent adaln,blocks=4",
            {
                "di4c,loss=naive,latents=8  adaln,blocks=4": UpdateCase(
                    algo={"name": "di4c", "loss": "naive", "latents": 8},
                    latent={"name": "adaln", "blocks": 4},
                ),
                "dmmd  adaln,blocks=4": UpdateCase(
                    algo={"name": "dmmd"}, latent={"name": "adaln", "blocks": 4}
                ),
            },
        ),
    ],
)
def test_a_row_for_each_combination(line: str, cases: dict[str, object]) -> None:
    args = make_parser().parse_args(["bench", *shlex.split(line)])
    assert make_cases(args) == cases


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: what; see di4c bench --help"),
        ("loss --latents x", "argument --latents: invalid int value: 'x'"),
        ("loss --impl fast", "argument --impl: invalid choice: 'fast' (choose from "),
        ("loss --latents 0", "latents must be at least 1, not 0"),
        ("loss --masked 2", "masked must be in (0, 1], not 2.0"),
        ("update --algo di4c,fast", "give a method with options, such as di4c,loss=naive, not "),
        ("update --algo di4c,loss=[", "give a method with options, such as di4c,loss=naive, not "),
        (
            "update --adapter 16",
            "give an adapter for each network, such as r=16,alpha=32, or none, ",
        ),
        ("update --algo di4c,x=${", "give a method with options, such as di4c,loss=naive, not "),
        ("update --algo no", "unknown algorithm 'no'; there are "),
        ("update --process gaussian", "argument --process: invalid choice: 'gaussian' "),
        ("update --process uniform --teacher a.ckpt", "--process=uniform is of the random DiT: "),
        ("update --dtype int8", "argument --dtype: invalid choice: 'int8' "),
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


def test_what_was_measured_stays_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([{"peak_mb": 1.0, "seconds": 1.0}])

    def run_case(*args: object) -> dict[str, float]:
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(bench_run, "run_case", run_case)
    path = tmp_path / "a.json"
    assert main(["bench", "loss", "--json", str(path)]) == 130
    assert capsys.readouterr().err == f"di4c: wrote {path}\ndi4c: interrupted\n"
    assert len(json.loads(path.read_text())["results"]) == 1
