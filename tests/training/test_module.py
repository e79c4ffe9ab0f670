import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, Data, LossTerms, Networks, Update
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.data import BatchStream, MicroBatch
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.rng import step_generator
from di4c_plugin.training.run import train
from tests.training import toy

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ONE: dict[str, Any] = {
    "steps": 1,
    "batch_size": 5,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
}


def module(student: Model, **options: Any) -> TrainingModule:
    frozen = toy.teacher(num_classes=student.network.num_classes).denoiser
    config = TrainingConfig(**options)
    networks = {"student": student.denoiser}
    return TrainingModule(toy.Distil(student.process), networks, frozen, toy.data(), config)


def gradients(student: Model, device: str = "cpu", **options: Any) -> dict[str, Tensor]:
    """The gradients of the first micro-step, without Lightning's loop."""
    made = module(student, **options).to(device)
    made.on_fit_start()
    micro = MicroBatch(0, BatchStream(toy.data(), 5, seed=0).batch(0)).to(torch.device(device))
    made.training_step(micro, 0).backward()
    trained = made.networks["student"].named_parameters()
    return {name: p.grad.cpu() for name, p in trained if p.grad is not None}


@pytest.mark.parametrize("latent", sorted(toy.LATENTS))
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("num_classes", [0, 2])
def test_every_parameter_has_a_gradient(latent: str, masked: bool, num_classes: int) -> None:
    # DDP without a flag for unused parameters hangs or fails otherwise.
    student = toy.student(latent, masked=masked, num_classes=num_classes)
    frozen = toy.teacher(masked=masked, num_classes=num_classes).denoiser
    data = toy.data() if num_classes else Data(toy.data().x_0)
    networks = {"student": student.denoiser}
    made = TrainingModule(toy.Distil(student.process), networks, frozen, data, TrainingConfig())
    made.training_step(MicroBatch(0, BatchStream(data, 5, seed=0).batch(0)), 0).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


def test_only_the_student_and_its_average_are_kept() -> None:
    made = module(toy.student())
    assert {name.split(".")[0] for name in made.state_dict()} == {"networks", "averages"}
    assert all(
        name.startswith("networks.student.")
        for name, p in made.named_parameters()
        if p.requires_grad
    )


def test_the_models_given_stay_as_they_are() -> None:
    student, teacher = toy.student(), toy.teacher()
    before = copy.deepcopy(toy.weights(student)), copy.deepcopy(toy.weights(teacher))
    algorithm = toy.Distil(student.process)
    trained = train(algorithm, student, teacher, toy.data(), TrainingConfig(**ONE), progress=False)
    assert toy.same(before[0], toy.weights(student))
    assert toy.same(before[1], toy.weights(teacher))
    assert all(p.requires_grad for p in teacher.denoiser.parameters())
    assert not toy.same(before[0], toy.weights(trained))


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_networks_give_fp32_losses_near_those_in_fp32(device: str) -> None:
    full = gradients(toy.student(), device)
    mixed = gradients(toy.student(), device, precision="bf16-mixed")
    assert {gradient.dtype for gradient in mixed.values()} == {torch.float32}
    one, other = (torch.cat([g.flatten() for g in each.values()]) for each in (full, mixed))
    assert not torch.equal(one, other)
    assert torch.cosine_similarity(one, other, dim=0) > 0.999


@pytest.mark.parametrize("device", DEVICES)
def test_no_operation_of_an_algorithm_is_under_autocast(device: str) -> None:
    class MatMul(toy.Distil):
        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            losses = super().losses(batch, networks, update)
            one = torch.full((1, 1), 1 + 2**-12, device=losses.total.device)
            assert (one @ one).dtype == torch.float32
            assert losses.total.dtype == torch.float32
            return losses

    student = toy.student()
    algorithm = MatMul(student.process)
    config = TrainingConfig(**ONE, precision="bf16-mixed", accelerator=device)
    train(algorithm, student, toy.teacher(), toy.data(), config, progress=False)


@pytest.mark.gpu
def test_a_prediction_on_the_gpu_is_that_on_the_cpu() -> None:
    student = toy.student()
    x_0, t = toy.data().x_0, torch.ones(7, dtype=torch.float64)
    lam = torch.rand(7, *(student.denoiser.latent_shape or ()))
    one = student.denoiser(x_0, t, latent=lam)
    other = copy.deepcopy(student.denoiser).cuda()(x_0.cuda(), t.cuda(), latent=lam.cuda())
    assert torch.allclose(one, other.cpu(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_student_learns_the_same(device: str) -> None:
    plain = gradients(toy.student(), device)
    compiled = gradients(toy.student(), device, compile=True)
    assert plain.keys() == compiled.keys()
    for name in plain:
        assert torch.allclose(plain[name], compiled[name], atol=1e-5), name


def test_accumulated_micro_steps_make_the_update_of_their_union() -> None:
    class Union(toy.Distil):
        """Draws what the micro-steps of `parts` would draw, for the joined batch."""

        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            parts = []
            for step in range(3):
                x_0, cond = batch.x_0[5 * step : 5 * step + 5], batch.cond
                part = Batch(x_0, None if cond is None else cond[5 * step : 5 * step + 5])
                parts.append(super().losses(part, networks, Update(step_generator(0, 0, step))))
            return LossTerms({"student": torch.stack([part.total for part in parts]).mean()}, {})

    def result(algorithm: type[Algorithm], **options: Any) -> dict[str, Tensor]:
        student = toy.student()
        config = TrainingConfig(**(ONE | options), ema=0.0)
        method = algorithm(student.process)  # type: ignore[call-arg]
        return toy.weights(
            train(method, student, toy.teacher(), toy.data(), config, progress=False)
        )

    small, large = result(toy.Distil, accumulate=3), result(Union, batch_size=15)
    for name in small:
        assert torch.allclose(small[name], large[name], atol=1e-6), name


def test_the_teacher_of_the_next_round_is_the_average() -> None:
    made = module(toy.student(), rounds=2, steps=4)
    before = made.engine.teacher
    assert not made.engine.begin(1, 4)
    assert made.engine.teacher is before
    assert made.engine.begin(2, 4)
    teacher: Any = made.engine.teacher
    assert toy.same(teacher.state_dict(), made.student().state_dict())
    assert teacher is not made.student()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not made.engine.begin(3, 4)


def test_networks_are_trained_in_turn_and_a_killed_run_goes_on(
    mutual: Callable[..., Algorithm], tmp_path: Path
) -> None:
    """The example plugin's method: a student, and a peer whose average the student reads."""
    model = toy.teacher()
    config = TrainingConfig(steps=6, batch_size=2, rounds=2, checkpoint_every=1)
    moved: list[set[str]] = []

    def run(out: Path, **options: Any) -> Model:
        start = {"others": {"peer": toy.teacher()}, "progress": False, **options}
        return train(mutual(model.process), model, model, toy.data(), config, out, **start)

    def copied(made: TrainingModule) -> dict[str, list[Tensor]]:
        parts = {"student": made.networks["student"], "peer": made.networks["peer"]}
        parts |= {f"mean_{name}": average for name, average in made.averages.items()}
        return {k: [p.detach().clone() for p in v.parameters()] for k, v in parts.items()}

    step = TrainingModule.optimizer_step

    def watched(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        before = copied(self)
        step(self, *arguments, **options)
        after = copied(self)
        moved.append({k for k in before if not all(map(torch.equal, before[k], after[k]))})
        assert [g["lr"] * 2 for g in self.trainer.optimizers[0].param_groups[1:]] == [
            pytest.approx(self.trainer.optimizers[0].param_groups[0]["lr"])
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", watched)
        whole = run(tmp_path / "whole")
    student, peer = {"student", "mean_student"}, {"peer", "mean_peer"}
    assert moved == [student, student, peer] * 2
    assert whole.is_student
    assert whole.latent is None

    def killed(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        if self.trainer.global_step == 4:
            raise KeyboardInterrupt
        step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  as Lightning ends it
            run(tmp_path / "broken")
    again = run(tmp_path / "broken", resume=True)
    assert toy.same(toy.weights(whole), toy.weights(again))
