"""The checkpoint of a student: what is in it, who can read it, and what it may resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.api import load_student
from di4c_plugin.checkpoints.weights import read_weights
from di4c_plugin.programs.text.averages import averages
from di4c_plugin.programs.text.state import RunState, count_batches
from di4c_plugin.programs.text.student import Plan
from di4c_plugin.training.checkpoint_file import read_checkpoint
from tests.stand_ins.text import stand_in

TOKEN = {"name": "token", "dim": 1, "features": 128}


def fit(folder: Path, plan: Plan | None = None, resume: Path | None = None) -> stand_in.Student:
    module = stand_in.student(plan)
    trainer = stand_in.trainer(folder, max_steps=2, limit_val_batches=0)
    trainer.fit(module, stand_in.loader(), ckpt_path=resume)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[stand_in.Student, Path]:
    folder = tmp_path_factory.mktemp("trained")
    return fit(folder), folder / "step=2.ckpt"


def test_it_says_what_the_student_is(trained: tuple[stand_in.Student, Path]) -> None:
    notes = torch.load(trained[1], weights_only=True)["di4c"]
    assert notes["latent"] == TOKEN
    assert notes["process"] == trained[0].process.config
    assert notes["network"] == {
        "kind": "dit",
        "vocab_size": 7,
        "length": 6,
        "hidden_size": 12,
        "cond_dim": 5,
        "n_blocks": 2,
        "n_heads": 2,
        "time_conditioning": False,
    }
    assert notes["teacher"] == {"source": "teacher.ckpt"}
    assert notes["run"] == {
        "teacher": stand_in.weights().fingerprint,
        "start": "",
        "round": 0,
        "micro_step": 2,
        "batches": 2,
        "epoch": 0,
        "examples": 6,
        "size": 3,
    }


def test_there_is_no_pickled_object_and_no_teacher_in_it(
    trained: tuple[stand_in.Student, Path],
) -> None:
    content = torch.load(trained[1], weights_only=True)
    assert not any(key.startswith(("hyper_parameters", "hparams")) for key in content)
    assert {name.split(".")[0] for name in content["state_dict"]} == {"backbone"}
    # The host keeps its objects in memory.
    assert trained[0].hparams["tokenizer"] is not None


@pytest.mark.parametrize("ema", [True, False])
def test_its_weights_are_read_by_name(trained: tuple[stand_in.Student, Path], ema: bool) -> None:
    module, path = trained
    found = read_weights(path, ema=ema)
    want = averages(module) if ema else module.backbone.state_dict()
    assert found.tensors.keys() == want.keys()
    assert all(torch.equal(found.tensors[name], want[name]) for name in want)
    assert found.latent == TOKEN
    assert found.process == module.process.config


def test_the_student_samples_without_the_host(trained: tuple[stand_in.Student, Path]) -> None:
    module, path = trained
    student = load_student(path)
    x = torch.full((2, 6), stand_in.MASK)
    t, lam = torch.full((2,), 0.7).double(), torch.rand(2, 1)
    plan = Plan(module.plan.sampler, None, read_weights(path))
    host = stand_in.student(plan).student.eval()
    log_p = student.denoiser(x, t, latent=lam)
    torch.testing.assert_close(host(x, t, latent=lam), log_p, rtol=1e-4, atol=1e-4)
    assert student.sample(3, steps=2).max() < stand_in.MASK


def failing(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        fit(*arguments)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("di4c:")]
    assert len(lines) == 1
    return lines[0]


def test_another_teacher_is_told(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = stand_in.weights(seed=5, origin="other.ckpt")
    line = failing(capsys, tmp_path, stand_in.distilling(teacher=other), trained[1])
    assert "distils another teacher (teacher.ckpt) than other.ckpt" in line


def test_another_latent_is_told(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = stand_in.distilling(latent={"name": "adaln", "dim": 1})
    line = failing(capsys, tmp_path, plan, trained[1])
    assert "'token', " in line
    assert "not {'name': 'adaln'" in line


def test_a_checkpoint_of_the_host_itself_is_told(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(trained[1])
    del content["di4c"]
    torch.save(content, tmp_path / "foreign.ckpt")
    line = failing(capsys, tmp_path, None, tmp_path / "foreign.ckpt")
    assert "was not written by this algo" in line


def test_other_averages_are_told(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(trained[1])
    content["di4c"]["ema_names"].pop()
    torch.save(content, tmp_path / "short.ckpt")
    assert "averages other weights" in failing(capsys, tmp_path, None, tmp_path / "short.ckpt")


def test_another_method_is_told(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failing(capsys, tmp_path, stand_in.distilling(delta=0.1), trained[1])
    assert "is of another method: algo.delta was 0.2, and is 0.1 now; a new folder and" in line


def test_a_checkpoint_of_an_earlier_version_goes_on(
    trained: tuple[stand_in.Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(trained[1])
    notes, run = content["di4c"], content["di4c"]["run"]
    del notes["settings"], run["epoch"], run["examples"], run["size"], run["start"]
    torch.save(content, tmp_path / "old.ckpt")
    module = stand_in.student()
    trainer = stand_in.trainer(tmp_path, max_steps=3, limit_val_batches=0)
    trainer.fit(module, stand_in.loader(), ckpt_path=tmp_path / "old.ckpt")
    assert "of an earlier version: its data come in another order" in capsys.readouterr().err
    assert (module.state.epoch, module.state.examples, module.state.micro_step) == (0, 9, 3)


def test_counters_are_what_was_trained_on_whatever_the_host_wrote() -> None:
    counters = {
        part: dict.fromkeys(("ready", "started", "processed", "completed"), 99)
        for part in ("current", "total")
    }
    loop: dict[str, Any] = {
        "epoch_loop.batch_progress": counters | {"is_last_batch": False},
        "epoch_loop.state_dict": {"_batches_that_stepped": 98},
    }
    count_batches(loop, RunState("x", micro_step=7, batches=3), 4)
    assert set(counters["current"].values()) == {3}
    assert set(counters["total"].values()) == {7}
    assert loop["epoch_loop.state_dict"]["_batches_that_stepped"] == 4
