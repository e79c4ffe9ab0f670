import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, Data, LossTerms, Networks
from di4c_plugin.algorithms.denoising import Denoising
from di4c_plugin.models import Model
from di4c_plugin.training import TrainingConfig, train
from di4c_plugin.training.data import BatchStream, MicroBatch
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.rng import step_generator
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
    return TrainingModule(toy.Distil(student.process), student.denoiser, frozen, toy.data(), config)


def gradients(student: Model, device: str = "cpu", **options: Any) -> dict[str, Tensor]:
    """The gradients of the first micro-step, without Lightning's loop."""
    made = module(student, **options).to(device)
    made.on_fit_start()
    micro = MicroBatch(0, BatchStream(toy.data(), 5, seed=0).batch(0)).to(torch.device(device))
    made.training_step(micro, 0).backward()
    return {name: p.grad.cpu() for name, p in made.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("latent", sorted(toy.LATENTS))
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("num_classes", [0, 2])
def test_every_parameter_has_a_gradient(latent: str, masked: bool, num_classes: int) -> None:
    # DDP without a flag for unused parameters hangs or fails otherwise.
    student = toy.student(latent, masked=masked, num_classes=num_classes)
    frozen = toy.teacher(masked=masked, num_classes=num_classes).denoiser
    data = toy.data() if num_classes else Data(toy.data().x_0)
    made = TrainingModule(
        toy.Distil(student.process), student.denoiser, frozen, data, TrainingConfig()
    )
    made.training_step(MicroBatch(0, BatchStream(data, 5, seed=0).batch(0)), 0).backward()
    assert [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


def test_only_the_student_and_its_average_are_kept() -> None:
    made = module(toy.student())
    assert {name.split(".")[0] for name in made.state_dict()} == {"student", "ema"}
    assert all(
        name.startswith("student.") for name, p in made.named_parameters() if p.requires_grad
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
        def losses(self, batch: Batch, networks: Networks, **options: Any) -> LossTerms:
            losses = super().losses(batch, networks, **options)
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

        def losses(self, batch: Batch, networks: Networks, **options: Any) -> LossTerms:
            parts = []
            for step in range(3):
                x_0, cond = batch.x_0[5 * step : 5 * step + 5], batch.cond
                part = Batch(x_0, None if cond is None else cond[5 * step : 5 * step + 5])
                generator = step_generator(0, 0, step)
                parts.append(super().losses(part, networks, generator=generator, progress=0.0))
            return LossTerms(sum(part.total for part in parts) / 3, {})  # type: ignore[arg-type]

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


@pytest.mark.parametrize("target", ["student", "ema"])
def test_the_target_is_the_student_or_its_average(target: str) -> None:
    made = module(toy.student(), target=target)
    expected = made.ema.network if target == "ema" else made.student
    assert made.networks().target is expected


def test_alternating_algorithms_train_one_network_at_a_time() -> None:
    class Alternate(Denoising):
        def trains(self, update: int) -> str:
            return "auxiliary" if update % 3 else "student"

        def losses(self, batch: Batch, networks: Networks, **options: Any) -> LossTerms:
            found = {
                name
                for name, network in vars(networks).items()
                if network is not None and next(network.parameters()).requires_grad
            } - {"target"}
            seen.append(found)
            which = Networks(student=getattr(networks, found.copy().pop()))
            return super().losses(batch, which, **options)

    seen: list[set[str]] = []
    model = toy.teacher()
    config = TrainingConfig(steps=6, batch_size=2)
    train(
        Alternate(model.process), model, None, toy.data(), config, auxiliary=model, progress=False
    )
    assert seen == [{"student"}, {"auxiliary"}, {"auxiliary"}] * 2
