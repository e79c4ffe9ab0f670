import json
from pathlib import Path

import pytest
import torch

from di4c_plugin.api import load_teacher, sample
from di4c_plugin.checkpoints.model import bare_names
from di4c_plugin.checkpoints.weights import fingerprint
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


@pytest.mark.slow
def test_it_prints_and_saves_a_value_for_each_number_of_steps(di4c: Run) -> None:
    options = ["--steps", "1,3", "--samples", "20", "--seed", "5", "--json", "new/fd.json"]
    run = di4c("evaluate", "teacher", *options)
    assert run.returncode == 0, run.stderr
    header, *rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert header == ["steps", "fd", "calls", "ms/sample", "tokens/s", "peak MB"]
    # One network call a step, counted at the network; no pass beside them.
    assert [row[:3] for row in rows] == [[str(k), f"{expected(k):.4g}", str(k)] for k in (1, 3)]
    report = json.loads(Path("new/fd.json").read_text())
    assert [p["figures"]["fd"]["value"] for p in report["points"]] == [expected(1), expected(3)]
    assert [(p["model"], p["steps"], p["seed"], p["n"]) for p in report["points"]] == [
        ("teacher", 1, 5, 20),
        ("teacher", 3, 5, 20),
    ]
    (source,) = report["sources"]
    assert source["fingerprint"] == fingerprint(bare_names(load_teacher("teacher")))
    assert (source["role"], source["latents"], source["network_dtype"]) == (
        *("teacher", None),
        "float32",
    )
    assert source["sampler"] == "ancestral"
    assert report["versions"]["torch"] == torch.__version__


def test_a_temperature_of_the_sampler_is_swept_as_its_option() -> None:
    """That of the model's prediction is another one: --temperatures."""
    few = ["evaluate", "teacher", "--samples", "20", "--steps", "3", "--seed", "5"]
    swept = ["--sampler", "maskgit", "--sweep", "temperature=0,4.5", "--json", "r.json"]
    assert main([*few, *swept]) == 0
    teacher, data = load_teacher("teacher"), BUILTIN().data().x_0
    for point in json.loads(Path("r.json").read_text())["points"]:
        options = {"sampler": "maskgit", "temperature": point["swept"]}
        x = sample(teacher, 20, steps=3, seed=5, **options)
        assert point["figures"]["fd"]["value"] == frechet_distance(x, data)
    for law in (["--temperatures", ".5"], ["--sweep", "temperature=.5"]):
        assert main([*few, *law, "--json", "r.json", "--overwrite"]) == 0
        report = json.loads(Path("r.json").read_text())
        assert report["arguments"]["sweep"] == ["T", [0.5]]


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
        ("teacher --metric fdd", "unknown metric 'fdd' (did you mean 'fd'?); there are bits, "),
        ("teacher --host mdlm", "teacher is a model of 'transformer', not of 'dit'"),
        ("teacher --sampler euler", "unknown sampler 'euler'; there are analytic, ancestral, "),
        ("teacher --temperatures 1,0", "temperatures are above 0, not 0"),
        ("teacher --temperatures 1,x", "--temperatures takes numbers separated by commas, not "),
        ("teacher --sweep steps=1,2", "--sweep is for options of the sampler, and 'steps' is none"),
        ("teacher --sweep seed=1,2", "--sweep is for options of the sampler, and 'seed' is none"),
        (f"teacher --samples {10**20}", "--samples is at most 100000000, not 1000000000000000"),
        (f"teacher --seeds {10**20}", "--seeds is at most 10000, not 1000000000000000"),
        (f"teacher --processes {10**9}", "--processes is at most 1000, not 1000000000 (DI4C_LI"),
        (f"teacher --device cuda:{10**19}", "cannot use device 'cuda:1000000000000"),
        ("teacher --sweep guidance", "--sweep takes OPTION=V,V,…, not 'guidance'"),
        ("teacher --sweep latents2=1", "sampler 'ancestral': got an unexpected keyword argument"),
        ("teacher --seeds 0", "--seeds is at least 1, not 0"),
        ("teacher teacher", "teacher is named twice"),
        ("", "name a model or a file of samples"),
        ("teacher --plot x.pdf", "pictures are PNG files: x.pdf must end in .png"),
        ("teacher --metric entropy,fd --at-entropy data", "--at-entropy data compares with real "),
        ("teacher --metric entropy --at-entropy 2", "--at-entropy compares other values at this "),
        ("teacher --at-entropy 2", "--at-entropy needs the entropy of the samples: add it to "),
        ("teacher --metric bits", "bits compares with real text: --reference FILE"),
        ("teacher --metric gen_ppl", "gen_ppl needs a language model: --scorer FOLDER or hub id"),
        ("texts.txt", "no such file: texts.txt"),
        ("--repeat nowhere", "cannot read nowhere: No such file or directory"),
        ("--repeat corrupt", "corrupt is no report of di4c evaluate: it is no JSON"),
        ("teacher --samples 0", "--samples is at least 1, not 0"),
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


def test_nothing_is_replaced_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are refused before the work; `~` is the user's home."""
    monkeypatch.setenv("HOME", str(Path.cwd()))
    few = ["evaluate", "teacher", "--steps", "1", "--samples", "10"]
    Path("mine").write_text("mine")
    Path("mine.png").write_text("mine")
    weights = Path("teacher").read_bytes()
    for asked, told in (
        ("--json ~/mine", "mine is there already: name another file, or add --overwrite"),
        ("--plot ~/mine.png", "mine.png is there already"),
        ("--json mine/x.json", "cannot write mine/x.json: mine is no folder"),
        ("--json . --overwrite", "it is a folder"),
        ("--shards mine", "mine is no folder"),
        ("--json ./teacher --overwrite", "--json teacher is another file of this command"),
        ("--plot x.png --json x.png", "is another file of this command"),
        ("--reference mine --json mine --overwrite", "is another file of this command"),
    ):
        assert main([*few, *asked.split()]) == 2, asked
        out = capsys.readouterr()
        assert told in out.err
        assert out.out == ""
    assert {path.name for path in Path().iterdir()} == {"corrupt", "mine", "mine.png", "teacher"}
    assert Path("mine").read_text() == Path("mine.png").read_text() == "mine"
    assert Path("teacher").read_bytes() == weights
    assert main([*few, "--json", "~/mine", "--overwrite", "--shards", "~/kept"]) == 0
    assert json.loads(Path("mine").read_text())["points"]
    assert list(Path("kept").iterdir())
