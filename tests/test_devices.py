"""The same code on every device: draws, losses, samples and a whole run."""

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, Data, Networks, Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.api import distill, sample
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, DiscretisedGaussian, Process, Uniform
from di4c_plugin.families import new_model, student_of
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.training.config import TrainingConfig

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
PROCESSES = [Absorbing(5), Uniform(5), DiscretisedGaussian(5, rate_sigma=2, q_sigma=5)]
X_0 = torch.arange(40).reshape(10, 4) % 5


def teacher_of(process: Process) -> Model:
    torch.manual_seed(0)
    mask = process.mask if isinstance(process, Absorbing) else None
    network = TransformerConfig(
        5,
        process.num_states,
        (2, 2),
        hidden_size=16,
        embedding_size=8,
        num_blocks=1,
        num_heads=2,
        mask=mask,
        time_conditioned=mask is None,
    )
    return new_model(network, process)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("latent", ["adaln", "token", "mask_noise"])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_loss_is_made_where_the_networks_are(
    process: Process, latent: str, device: str
) -> None:
    teacher = teacher_of(process)
    student = student_of(teacher, {"name": latent}).denoiser.to(device)
    networks = {"student": student, "teacher": teacher.denoiser.to(device)}
    generator = torch.Generator(device).manual_seed(0)
    for partial in (False, True):
        algorithm = Di4C(process, latents=3, partial=partial)
        batch = Batch(X_0.to(device))
        terms = algorithm.losses(batch, networks, Update(generator, 1, 2))
        assert terms.total.device.type == device
        terms.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def text_networks(device: str) -> tuple[Networks, Di4C]:
    """A student and a teacher with hidden states, on which the loss takes chunks."""
    torch.manual_seed(0)
    process = Absorbing(5, mask=4)
    config = DiTConfig(5, 4, hidden_size=16, cond_dim=8, n_blocks=2, n_heads=2)
    teacher = new_model(config, process)
    student = student_of(teacher, {"name": "adaln"}).denoiser.to(device)
    networks = {"student": student, "teacher": teacher.denoiser.to(device)}
    return networks, Di4C(process, latents=3, prior_share=0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_by_chunks_is_made_where_the_networks_are(device: str) -> None:
    networks, algorithm = text_networks(device)
    generator = torch.Generator(device).manual_seed(0)
    batch = Batch(X_0.to(device) % 4)
    terms = algorithm.losses(batch, networks, Update(generator, 1, 2))
    assert terms.total.device.type == device
    terms.total.backward()
    student = networks["student"]
    assert isinstance(student, torch.nn.Module)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.gpu
def test_an_update_does_not_wait_for_the_gpu() -> None:
    """But for the number of active positions, which is copied long before it is needed."""
    networks, algorithm = text_networks("cuda")
    batch = Batch(X_0.cuda() % 4)
    for mode in ("default", "error"):  # at their first call libraries may wait
        generator = torch.Generator("cuda").manual_seed(0)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            terms = algorithm.losses(batch, networks, Update(generator, 1, 2))
            terms.total.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_samples_come_from_a_generator_on_the_device(process: Process, device: str) -> None:
    student = student_of(teacher_of(process), {"name": "adaln"})
    one, two = (sample(student, 7, steps=2, device=device, batch_size=3) for _ in range(2))
    assert torch.equal(one, two)
    assert one.device.type == "cpu"
    assert 0 <= int(one.min()) <= int(one.max()) < 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_on_the_device_gives_a_student(device: str, precision: str) -> None:
    accelerator = "gpu" if device == "cuda" else "cpu"
    config = TrainingConfig(
        steps=3, batch_size=4, accelerator=accelerator, precision=precision, logger="none"
    )
    student = distill(teacher_of(PROCESSES[0]), Data(X_0), training=config, progress=False)
    assert all(p.isfinite().all() and p.device.type == "cpu" for p in student.denoiser.parameters())
