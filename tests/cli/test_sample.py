from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from di4c_plugin.api import load_student, sample
from di4c_plugin.cli.main import main
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from tests.conftest import Run

SIZES = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models, and of files that are none."""
    folder = tmp_path_factory.mktemp("cli") / "models"
    torch.manual_seed(0)
    host = BUILTIN()
    teacher = host.new_teacher({"name": "absorbing"}, **SIZES)
    teacher.save(folder / "teacher")
    host.build_student(teacher, {"name": "token"}).save(folder / "student")
    host.new_teacher({"name": "absorbing"}, **SIZES, num_classes=10).save(folder / "labelled")
    host.new_teacher({"name": "absorbing"}, **SIZES, grid=(4, 4)).save(folder / "small")
    save_file({"weight": torch.zeros(2)}, folder / "foreign")
    (folder / "corrupt").write_bytes((folder / "teacher").read_bytes()[:1000])
    return folder


@pytest.fixture(autouse=True)
def there(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder beside the models."""
    here = models.with_name(tmp_path.name)
    here.mkdir()
    monkeypatch.chdir(here)


@pytest.mark.slow
def test_it_draws_a_picture(di4c: Run) -> None:
    run = di4c("sample", "builtin:digits", "--n", "3", "--steps", "1")
    assert (run.returncode, run.stdout) == (0, "samples.png\n"), run.stderr
    assert Path("samples.png").read_bytes().startswith(b"\x89PNG")


def test_npy_files_hold_the_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n", "5", "--steps", "2", "--seed", "3", "--batch-size", "4", "--out", "new/x.npy"]
    assert main(["sample", "../models/student", *options]) == 0
    assert capsys.readouterr().out == f"{Path('new/x.npy')}\n"
    expected = sample(load_student("../models/student"), 5, steps=2, seed=3, batch_size=4)
    assert np.array_equal(np.load("new/x.npy"), expected.numpy())


def test_further_options_reach_the_sampler() -> None:
    options = ["--option", "latents=fixed", "--option", "last_latents=3", "--out", "x.npy"]
    assert main(["sample", "../models/student", "--n", "5", *options]) == 0
    student = load_student("../models/student")
    expected = sample(student, 5, steps=4, latents="fixed", last_latents=3)
    assert np.array_equal(np.load("x.npy"), expected.numpy())


def test_a_model_is_drawn_from_as_its_method_says() -> None:
    said = {"sampler": "halton", "steps": 2, "randomize": True}
    replace(load_student("../models/student"), sampling=said).save(Path("made"))
    made = load_student("made")
    expected = sample(made, 5, sampler="halton", steps=2, randomize=True)
    assert main(["sample", "made", "--n", "5", "--out", "x.npy"]) == 0
    assert np.array_equal(np.load("x.npy"), expected.numpy())
    typed = ["--steps", "4", "--sampler", "ancestral", "--overwrite"]
    assert main(["sample", "made", "--n", "5", "--out", "x.npy", *typed]) == 0
    assert np.array_equal(np.load("x.npy"), sample(made, 5, sampler="ancestral", steps=4).numpy())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"steps": "x"}, "sampling.steps is 'x': no whole number"),
        ({"steps": 0}, "sampling.steps is 0: no whole number from 1 to "),
        ({"steps": 2**40}, "sampling.steps is 1099511627776: no whole number from 1 to "),
        ({"steps": True}, "sampling.steps is True: no whole number"),
        ({"sampler": 5}, "sampling.sampler is 5: no name"),
    ],
)
def test_what_a_file_says_of_sampling_is_checked(
    said: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(load_student("../models/student"), sampling=said).save(Path("made"))
    assert main(["sample", "made", "--n", "1"]) == 2
    told = capsys.readouterr().err
    assert f"the description of the model in made is damaged: {message}" in told


def test_prompts_are_not_replaced_by_samples(capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("mine")
    options = ["--prompts", "prompts.txt", "--out", "./prompts.txt", "--overwrite"]
    assert main(["sample", "../models/student", *options]) == 2
    assert "prompts.txt is what this command reads" in capsys.readouterr().err
    assert Path("prompts.txt").read_text() == "mine"


def test_labels_reach_the_model() -> None:
    for label in ("3", "4"):
        options = ["--label", label, "--out", f"{label}.npy"]
        assert main(["sample", "../models/labelled", *options]) == 0
    assert not np.array_equal(np.load("3.npy"), np.load("4.npy"))


def test_hybrid_takes_its_teacher_and_its_share() -> None:
    hybrid = ["--sampler", "hybrid", "--teacher", "../models/teacher", "--teacher-steps", "4"]
    assert main(["sample", "../models/student", "--out", "a.npy", *hybrid]) == 0
    assert main(["sample", "../models/teacher", "--out", "b.npy"]) == 0
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


def test_files_are_replaced_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = ["sample", "../models/teacher", "--n", "2", "--steps", "1"]
    assert main(draw) == 0
    assert main(draw) == 0
    assert capsys.readouterr().out == "samples.png\nsamples-1.png\n"
    for flag, name in (("--out", "x.npy"), ("--animate", "x.gif")):
        Path(name).write_text("mine")
        assert main([*draw, flag, name]) == 2
        assert "is there already" in capsys.readouterr().err
        assert Path(name).read_text() == "mine"
        assert main([*draw, flag, name, "--overwrite"]) == 0
        assert Path(name).read_bytes() != b"mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*draw, "--out", "~/y.npy"]) == 0
    assert (tmp_path / "y.npy").is_file()
    assert main([*draw, "--out", f"{'x' * 300}.png"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("../models/nowhere", "no such model file: ../models/nowhere"),
        ("../models", "../models holds neither model.safetensors nor pytorch_model.bin"),
        ("hub:x", "unknown teacher source 'hub'; there are builtin, file"),
        ("../models/corrupt", "../models/corrupt is not a readable safetensors file: "),
        ("../models/foreign", "../models/foreign holds no weights of a network that we know"),
        ("../models/teacher --steps 0", "steps must be at least 1, not 0"),
        ("../models/teacher --steps two", "argument --steps: invalid int value: 'two'; "),
        ("../models/teacher --n 0", "n and batch_size must be at least 1, not 0 and 250"),
        ("../models/labelled --n -1 --label 1", "n and batch_size must be at least 1, not -1 "),
        ("../models/teacher --batch-size 0", "n and batch_size must be at least 1, not 64 and 0"),
        ("../models/teacher --seed -1", "seed must be in [0, 2^63), not -1"),
        ("../models/teacher --sampler ancestra", "unknown sampler 'ancestra' (did you mean "),
        ("../models/teacher --host mdlm", "../models/teacher is a model of 'transformer', not of"),
        ("../models/teacher --label 3", "this model takes no class labels"),
        (f"../models/labelled --label {10**20}", "class labels are small whole numbers, not 1"),
        ("../models/labelled --label 10", "class labels of this model are 0 ... 9, or -1 for none"),
        ("../models/labelled --label -2", "class labels of this model are 0 ... 9, or -1 for none"),
        (
            "../models/student --sampler hybrid --teacher-steps 1",
            "sampler 'hybrid': missing a required argument: 'teacher'",
        ),
        (
            "../models/student --sampler hybrid --teacher ../models/teacher",
            "sampler 'hybrid': missing a required argument: 'teacher_steps'",
        ),
        (
            "../models/student --sampler hybrid --teacher ../models/teacher --teacher-steps 5",
            "teacher_steps=5 does not fit 4 steps",
        ),
        (
            "../models/student --sampler hybrid --teacher ../models/small --teacher-steps 1",
            "teacher does not go with this model: ",
        ),
        (
            "../models/student --teacher ../models/teacher",
            "sampler 'ancestral': got an unexpected keyword argument 'teacher'",
        ),
        ("../models/student --option latents", "--option takes NAME=VALUE, not 'latents'"),
        ("../models/student --option n=3", "--option is for options of the sampler, and 'n' is no"),
        ("../models/student --option latents=old", "unknown latent policy 'old'; there are fixed"),
        ("../models/student --option foo=1", "sampler 'ancestral': got an unexpected keyword arg"),
        ("../models/small", "host 'builtin' draws 8x8 images, not 16 tokens"),
        ("../models/teacher --device abacus", "cannot use device 'abacus': "),
        ("../models/teacher --out x.txt", "samples of host 'builtin' are no texts"),
        ("../models/teacher --out x.pdf", "pictures are PNG files: x.pdf must end in .png"),
        ("../models/teacher --out ../models/teacher/x.png", "cannot write ../models/teacher/x.png"),
    ],
)
def test_mistakes_give_one_line_and_write_nothing(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"di4c: error: {message}")
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []
