"""Where the networks of a run come from, and what becomes of a backbone that the host wraps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.averages import averages
from tests.stand_ins.text import stand_in

TOKEN = {"name": "token", "dim": 1, "features": 128}


def going_on(start: Any, *, latent: Any = None, **algo: Any) -> Any:
    """A plan that starts from a student; nobody named a latent unless it is given here."""
    plan = stand_in.distilling(**algo)
    assert plan.distillation is not None
    return replace(plan, start=start, distillation=replace(plan.distillation, latent=latent))


def test_training_goes_on_from_a_student() -> None:
    start, teacher = stand_in.weights(seed=4, latent=TOKEN), stand_in.weights()
    module = stand_in.student(going_on(start))
    own = dict(module.backbone.named_parameters())
    assert all(torch.equal(own[name], start.tensors[name]) for name in own)
    assert module.latent == TOKEN
    assert all(torch.equal(averages(module)[name], own[name]) for name in own)
    frozen: Any = module.engine and module.engine.teacher
    weights = frozen.backbone.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in teacher.tensors.items())
    assert module.state.start == start.fingerprint


@pytest.mark.parametrize(
    ("start", "latent", "message"),
    [
        ({"latent": None}, None, "has no latent, and this method needs one"),
        ({"latent": TOKEN}, {"name": "adaln"}, "has the latent .*'token'.*, not .*'adaln'"),
        ({"latent": TOKEN}, TOKEN | {"dim": 2}, "has the latent .*'token'.*, not .*'dim': 2"),
    ],
)
def test_a_start_that_is_no_student_of_the_method_is_refused(
    start: Any, latent: Any, message: str
) -> None:
    with pytest.raises(UserError, match=f"^the student to start from {message}"):
        stand_in.student(going_on(stand_in.weights(**start), latent=latent))


@pytest.mark.parametrize("latent", [TOKEN, {"name": "adaln"}])
def test_what_becomes_of_the_teachers_latent_is_said(
    latent: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    teacher = stand_in.weights(latent=TOKEN)
    module = stand_in.student(stand_in.distilling(teacher=teacher, latent=latent))
    line = f"di4c: the teacher's latent {TOKEN} is not carried over: the student has a new one, "
    told = capsys.readouterr().err
    assert told == ("" if latent == TOKEN else f"{line}{module.latent}\n")


def test_a_start_of_another_kind_is_refused() -> None:
    start = replace(stand_in.weights(latent=TOKEN), config={"algo": {"name": "duo_base"}})
    with pytest.raises(UserError, match="name differs"):
        stand_in.student(going_on(start))


def test_a_run_that_started_elsewhere_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = [stand_in.weights(seed=seed, latent=TOKEN) for seed in (4, 5)]
    options: dict[str, Any] = {"max_steps": 2, "limit_val_batches": 0}
    trainer = stand_in.trainer(tmp_path, **options)
    trainer.fit(stand_in.student(going_on(starts[0])), stand_in.loader())
    for plan in (going_on(starts[1]), stand_in.distilling()):
        with pytest.raises(SystemExit) as stop:
            stand_in.trainer(tmp_path, **options).fit(
                stand_in.student(plan), stand_in.loader(), ckpt_path=tmp_path / "step=1.ckpt"
            )
        assert stop.value.code == 2
        assert "started from another student= than this one" in capsys.readouterr().err


class Wrapped(nn.Module):
    """What `torch.compile` returns: the network is its `_orig_mod`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


def test_a_backbone_that_is_compiled_afterwards_stays_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SDTT does it; two rounds, and a checkpoint with the names that it always has."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **o: compiled.append(self))
    module = stand_in.student(stand_in.distilling(rounds=2))
    backbone = module.backbone
    module.backbone = Wrapped(backbone)
    assert module.backbone is backbone
    assert compiled == [backbone]
    stand_in.trainer(tmp_path, max_steps=4).fit(module, stand_in.loader())
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    assert not any("_orig_mod" in name for name in saved["state_dict"])
    assert saved["di4c"]["run"]["round"] == 1


@pytest.mark.slow
def test_a_compiled_backbone_is_trained_compiled(tmp_path: Path) -> None:
    module = stand_in.student(stand_in.distilling(rounds=2))
    module.backbone = torch.compile(module.backbone, backend="eager")  # type: ignore[assignment]
    assert module.backbone._compiled_call_impl is not None
    stand_in.trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(module, stand_in.loader())
    assert module.state.round == 1


def test_another_wrapper_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    module = stand_in.student()
    module.backbone = module.backbone
    with pytest.raises(SystemExit) as stop:
        module.backbone = nn.Sequential(module.backbone)
    assert stop.value.code == 2
    assert "the backbone is replaced by a Sequential: leave that out" in capsys.readouterr().err


@pytest.mark.parametrize("still", [False, True])
def test_an_average_that_starts_anew_does_so_within_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, still: bool
) -> None:
    """A round begins in the pass of an update's last batch: the program's optimiser step."""
    module = stand_in.student(stand_in.distilling(rounds=2))
    assert module.engine is not None
    monkeypatch.setattr(module.engine.algorithm, "renew", ("average",), raising=False)
    if still:  # an update that trains another network than the student
        trained = module.engine.trained
        monkeypatch.setattr(module.engine, "trained", lambda i, n: () if i == 2 else trained(i, n))
    stand_in.trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(module, stand_in.loader())
    assert module.ema.num_updates == (1 if still else 2)
