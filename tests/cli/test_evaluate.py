import json
from pathlib import Path

import pytest
import torch

from di4c_plugin.api import load_teacher, sample
from di4c_plugin.cli.main import main
from di4c_plugin.evaluation.frechet import frechet_distance
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from tests.conftest import Run

SIZES = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 1}


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a small teacher and a file that is none."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).save("teacher")
    Path("corrupt").write_bytes(Path("teacher").read_bytes()[:1000])


def expected(steps: int) -> float:
    x = sample(load_teacher("teacher"), 20, steps=steps, seed=5)
    return frechet_distance(x, BUILTIN().data().x_0)


def test_it_prints_and_saves_a_value_for_each_number_of_steps(di4c: Run) -> None:
    options = ["--steps", "1,3", "--samples", "20", "--seed", "5", "--json", "new/fd.json"]
    run = di4c("evaluate", "teacher", *options)
    assert run.returncode == 0, run.stderr
    header, *rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert header == ["steps", "fd", "ms/sample"]
    assert [row[:2] for row in rows] == [[str(k), f"{expected(k):.2f}"] for k in (1, 3)]
    assert json.loads(Path("new/fd.json").read_text()) == {
        "model": "teacher",
        "sampler": "ancestral",
        "seed": 5,
        "samples": 20,
        "options": {},
        "fd": {"1": expected(1), "3": expected(3)},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "no such model file: nowhere"),
        (
            "teacher --host-option data=x",
            "host 'builtin': got an unexpected keyword argument 'data'",
        ),
        ("nowhere.pth --host-option data=x", "no such model file: nowhere.pth"),
        ("corrupt", "corrupt is not a readable safetensors file: "),
        ("teacher --steps 4,0", "--steps takes numbers from 1 separated by commas, not '4,0'"),
        ("teacher --steps 1,two", "--steps takes numbers from 1 separated by commas, not '1,two'"),
        ("teacher --steps 1,,2", "--steps takes numbers from 1 separated by commas, not '1,,2'"),
        ("teacher --metric fdd", "unknown metric 'fdd' (did you mean 'fd'?); there are fd"),
        ("teacher --host mdlm", "unknown host 'mdlm'; there are builtin"),
        ("teacher --sampler euler", "unknown sampler 'euler'; there are analytic, ancestral, "),
        ("teacher --samples 0", "n and batch_size must be at least 1, not 0 and 250"),
        ("teacher --samples 1", "Frechet distance needs two sets of at least 2 samples "),
        ("teacher --sampler hybrid", "sampler 'hybrid': missing a required argument: 'teacher'"),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments.split(), "--json", "fd.json"]) == 2
    _, err = capsys.readouterr()
    assert err.startswith(f"di4c: error: {message}")
    assert err.count("\n") == 1
    assert {path.name for path in Path().iterdir()} == {"corrupt", "teacher"}
