"""Runs of D-MMD's two networks under our own loop: killed and resumed, kept with k."""

from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.algorithms.dmmd import DMMD
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import load_model
from di4c_plugin.training import TrainingConfig, train
from di4c_plugin.training.module import TrainingModule
from tests.training import toy

CONFIG = TrainingConfig(steps=7, batch_size=3, checkpoint_every=2, log_every=1, logger="none")


def run(out: Path, *, resume: bool = False, **options: Any) -> Model:
    method = DMMD(Absorbing(3), steps=2, **options)
    others = {"auxiliary": toy.teacher()}
    start, teacher = toy.student("mask_noise"), toy.teacher()
    data = toy.data()
    return train(
        method, start, teacher, data, CONFIG, out, others=others, resume=resume, progress=False
    )


@pytest.mark.parametrize("options", [{}, {"together": True}, {"auxiliary_updates": 2}])
def test_a_killed_run_goes_on_bit_for_bit(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", **options)
    step = TrainingModule.optimizer_step

    def killed(self: TrainingModule, *arguments: Any, **keywords: Any) -> None:
        if self.trainer.global_step == 5:
            raise KeyboardInterrupt
        step(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  as Lightning ends it
            run(tmp_path / "broken", **options)
    resumed = run(tmp_path / "broken", resume=True, **options)
    assert toy.same(toy.weights(whole), toy.weights(resumed))
    one, other = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "broken")
    )
    assert any(name.startswith("networks.auxiliary.") for name in one)
    assert one.keys() == other.keys()
    for name, value in one.items():
        again = other[name]
        alike = torch.equal(value, again) if isinstance(value, torch.Tensor) else value == again
        assert alike, name


def test_the_file_keeps_how_many_steps_it_is_for(tmp_path: Path) -> None:
    run(tmp_path)
    kept = load_model(tmp_path / "student.safetensors")
    assert kept.sampling == {"steps": 2, "latents": "fresh"}
