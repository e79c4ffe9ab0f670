from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model, student_of
from di4c_plugin.programs.text.plans import evaluation_plan, training_plan
from tests.algorithms import tiny
from tests.networks.backbone import state

ALGO: dict[str, Any] = {"algo": {"name": "di4c"}}
HYBRID = {"name": "hybrid", "teacher_steps": 1}


def write(path: Path, seed: int = 0, **others: Any) -> str:
    """A Lightning checkpoint of a host, whose averages are the double of its weights."""
    weights = {f"backbone.{name}": value for name, value in state(seed=seed).items()}
    ema = {"shadow_params": [2 * value for value in weights.values()]}
    torch.save({"state_dict": weights, "ema": ema} | others, path)
    return str(path)


@pytest.mark.parametrize("ema", [True, False])
def test_a_distillation_has_its_teacher_and_no_hybrid(tmp_path: Path, ema: bool) -> None:
    config = ALGO | {"teacher": write(tmp_path / "t.ckpt"), "teacher_ema": ema}
    plan = training_plan(config, None)
    assert plan.distillation is not None
    assert plan.hybrid is None
    assert plan.sampler.name == "ancestral"
    factor = 2 if ema else 1
    assert all(torch.equal(plan.weights.tensors[n], factor * v) for n, v in state().items())


def test_the_hosts_own_start_is_the_teacher_that_nobody_named(tmp_path: Path) -> None:
    named, own = write(tmp_path / "a.ckpt"), write(tmp_path / "b.ckpt", seed=1)
    plans = [training_plan(ALGO | {"teacher": t}, own) for t in (named, None)]
    assert plans[0].weights.fingerprint != plans[1].weights.fingerprint
    assert plans[1].weights.origin.endswith("b.ckpt")


@pytest.mark.parametrize("ema", [True, False])
def test_an_evaluation_has_a_model_and_may_have_a_teacher(tmp_path: Path, ema: bool) -> None:
    model, teacher = write(tmp_path / "m.ckpt"), write(tmp_path / "t.ckpt", seed=1)
    plan = evaluation_plan({"sampler": HYBRID | {"teacher": teacher}}, model, ema=ema)
    assert plan.distillation is None
    assert plan.hybrid is not None
    factor = 2 if ema else 1
    assert all(torch.equal(plan.weights.tensors[n], factor * v) for n, v in state().items())
    assert all(torch.equal(plan.hybrid.tensors[n], 2 * v) for n, v in state(seed=1).items())
    assert evaluation_plan({}, model, ema=ema).hybrid is None


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^there is nothing to evaluate: name the checkpoint$"):
        evaluation_plan({}, "", ema=True)
    with pytest.raises(UserError, match="^[^\n]*nowhere.ckpt[^\n]*$"):
        training_plan(ALGO | {"teacher": str(tmp_path / "nowhere.ckpt")}, None)
    sampler = HYBRID | {"teacher": str(tmp_path / "nowhere.ckpt")}
    with pytest.raises(UserError, match="^[^\n]*nowhere.ckpt[^\n]*$"):
        evaluation_plan({"sampler": sampler}, write(tmp_path / "m.ckpt"), ema=True)
    with pytest.raises(UserError, match="^algo=di4c distils a teacher: add teacher="):
        training_plan(ALGO, None)


def test_teacher_sources_of_plugins_are_teachers_here_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    student = student_of(new_model(tiny.DIT, tiny.masked()), {"name": "token"})
    student.save(path)
    monkeypatch.setattr("di4c_plugin.checkpoints.schemes.lookup", lambda *key: lambda rest: student)
    read = training_plan(ALGO | {"teacher": str(path)}, None).weights
    for source in ("mine:x", f"file:{path}"):
        plan = training_plan(
            ALGO | {"teacher": source, "sampler": HYBRID | {"teacher": source}}, None
        )
        assert plan.weights.fingerprint == read.fingerprint
        assert plan.weights.tensors.keys() == read.tensors.keys()
        assert (plan.weights.process, plan.weights.latent) == (read.process, read.latent)
        assert plan.weights.notes == read.notes
        assert plan.hybrid is not None
        assert plan.hybrid.origin == source
    monkeypatch.undo()
    with pytest.raises(UserError, match="^builtin:digits is a transformer: this program's teacher"):
        training_plan(ALGO | {"teacher": "builtin:digits"}, None)
    with pytest.raises(UserError, match="^unknown teacher source 'x'"):
        training_plan(ALGO | {"teacher": "x:y"}, None)


def test_a_misspelt_sampler_is_told_before_weights_are_read() -> None:
    with pytest.raises(UserError, match="unknown sampler 'ancestal'"):
        training_plan(ALGO | {"teacher": "nowhere", "sampler": {"name": "ancestal"}}, None)
