"""Rounds under our own loop: what becomes the teacher, what starts anew, kill and resume."""

from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.algorithms.sdtt import SDTT
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import load_model
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.run import train
from tests.training import toy

CONFIG = TrainingConfig(steps=6, batch_size=3, checkpoint_every=1, log_every=1, logger="none")


class Watched(SDTT):
    """Keeps the weights of the teacher and the round of every update."""

    seen: list[tuple[int, dict[str, torch.Tensor]]]

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        teacher: Any = networks["teacher"]
        weights = {k: v.detach().clone() for k, v in teacher.state_dict().items()}
        self.seen.append((update.round, weights))
        return super().losses(batch, networks, update)


def run(out: Path, *, latent: bool = False, resume: bool = False, **options: Any) -> Any:
    method = Watched(Absorbing(3), teacher_steps=16, steps=2, **options)
    method.seen = []
    start = toy.student("mask_noise") if latent else toy.teacher()
    made = train(
        method, start, toy.teacher(), toy.data(), CONFIG, out, resume=resume, progress=False
    )
    return made, method


def test_a_round_begins_with_the_averaged_student_as_teacher(tmp_path: Path) -> None:
    _, method = run(tmp_path)
    assert [index for index, _ in method.seen] == [0, 0, 1, 1, 2, 2]
    weights = [w for _, w in method.seen]
    for one in (0, 2, 4):
        assert toy.same(weights[one], weights[one + 1])
    assert not toy.same(weights[1], weights[2])
    assert not toy.same(weights[3], weights[4])
    kept = load_model(tmp_path / "student.safetensors")
    assert kept.sampling == {"steps": 2, "latents": "fresh"}
    assert kept.role == "student"
    assert kept.latent is None


@pytest.mark.slow
@pytest.mark.parametrize("renew", [[], ["optimiser", "average"]])
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 5])
def test_a_killed_run_goes_on_bit_for_bit_at_every_boundary(
    killed_at: int, latent: bool, renew: list[str], tmp_path: Path
) -> None:
    whole, _ = run(tmp_path / "whole", latent=latent, renew=renew)
    step = TrainingModule.optimizer_step

    def killed(self: TrainingModule, *arguments: Any, **keywords: Any) -> None:
        if self.trainer.global_step == killed_at:
            raise KeyboardInterrupt
        step(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  as Lightning ends it
            run(tmp_path / "broken", latent=latent, renew=renew)
    resumed, _ = run(tmp_path / "broken", latent=latent, renew=renew, resume=True)
    assert toy.same(toy.weights(whole), toy.weights(resumed))


def test_what_starts_anew_makes_a_difference(tmp_path: Path) -> None:
    made: list[Model] = []
    for name, renew in (("a", []), ("b", ["optimiser"]), ("c", ["average"])):
        made.append(run(tmp_path / name, renew=renew)[0])
    weights = [toy.weights(model) for model in made]
    assert not toy.same(weights[0], weights[1])
    assert not toy.same(weights[0], weights[2])
