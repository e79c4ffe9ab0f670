"""Two identical fair bits: what no product model draws in one step, a trained mixture does."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, Networks, Update
from di4c_plugin.algorithms.denoising import Denoising
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.algorithms.dmmd import DMMD
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import new_model, student_of
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.training.ema import EMA
from tests.enumeration import product_law, total_variation

BITS = Absorbing(2)
EQUAL = torch.tensor([0.5, 0, 0, 0.5], dtype=torch.float64)
NETWORK = TransformerConfig(
    2, 3, (1, 2), hidden_size=32, embedding_size=8, num_blocks=2, num_heads=2, mask=BITS.mask
)


def fit(algorithm: Algorithm, networks: Networks, trained: Model, updates: int) -> None:
    """Train on the two data points in equal shares."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(trained.denoiser.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, updates)
    x_0 = (torch.arange(32) % 2).unsqueeze(1).repeat(1, 2)
    for update in range(updates):
        losses = algorithm.losses(Batch(x_0), networks, Update(generator, update, updates))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def one_step_law(model: Model, latents: int = 1000) -> Tensor:
    """The law of one step from all masks, lambda integrated on an even grid."""
    latent = None
    if model.is_student:
        latent = ((torch.arange(latents) + 0.5) / latents).unsqueeze(1)
    count = 1 if latent is None else latents
    x_1 = torch.full((count, 2), BITS.mask)
    log_p = model.denoiser(x_1, torch.ones(count, dtype=torch.float64), latent=latent)
    return product_law(log_p).mean(0)


@pytest.fixture(scope="module")
def teacher() -> Model:
    torch.manual_seed(0)
    teacher = new_model(NETWORK, BITS)
    fit(Denoising(BITS), {"student": teacher.denoiser}, teacher, 300)
    return teacher


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"prior_share": 0.5, "weights": {"data_corr": 1.0}}, 0.05),
        ({"prior_share": 0.5, "weights": {"data_corr": 0.0, "data_marg": 0.0}}, 0.15),
    ],
    ids=["full loss", "no data terms"],
)
def test_the_mixture_learns_the_correlation(
    teacher: Model, options: dict[str, Any], limit: float
) -> None:
    torch.manual_seed(0)
    student = student_of(teacher, {"name": "adaln", "std": 0.5})
    times: dict[str, Any] = {"delta": 0.05, "delta_share": None, "delta_t": (0.25, 0.25)}
    algorithm = Di4C(BITS, latents=8, **times, **options)
    fit(algorithm, {"student": student.denoiser, "teacher": teacher.denoiser}, student, 800)
    assert total_variation(one_step_law(student), EQUAL) <= limit


def match(teacher: Model, latent: dict[str, Any] | None, updates: int) -> Tensor:
    """The law of one step after D-MMD for k = 1, by the average of the student's weights."""
    torch.manual_seed(0)
    student = student_of(teacher, latent) if latent else copy.deepcopy(teacher)
    auxiliary = copy.deepcopy(teacher)
    method = DMMD(
        BITS, steps=1, times="grid", together=True, input_noise=latent is not None, min_time=0.01
    )
    made = {"student": student.denoiser, "auxiliary": auxiliary.denoiser}
    for trained in made.values():
        trained.requires_grad_(True)
    average = EMA(student.denoiser, 0.99)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(
        [p for m in made.values() for p in m.parameters()], lr=1e-3, betas=(0.0, 0.99)
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, updates)
    x_0 = (torch.arange(128) % 2).unsqueeze(1).repeat(1, 2)
    for index in range(updates):
        found = method.losses(
            Batch(x_0), made | {"teacher": teacher.denoiser}, Update(generator, index, updates)
        )
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
        schedule.step()
        average.update(student.denoiser)
    x_1, count = torch.full((4000, 2), BITS.mask), 4000
    lam = torch.rand(count, *student.denoiser.latent_shape or (), generator=generator)
    with torch.no_grad():
        log_p = average.network(
            x_1, torch.ones(count, dtype=torch.float64), latent=lam if latent else None
        )
    return product_law(log_p).mean(0)


@pytest.mark.slow
def test_d_mmd_learns_the_joint_law_with_noise_and_not_without(teacher: Model) -> None:
    """Judged by the whole law: agreement alone is fooled by marginals that are skewed."""
    teacher.denoiser.requires_grad_(False)
    noise = {"name": "mask_noise", "dim": 4, "std": 1.0}
    assert total_variation(match(teacher, noise, 600), EQUAL) <= 0.1
    assert total_variation(match(teacher, None, 600), EQUAL) >= 0.3


def test_a_product_model_cannot(teacher: Model) -> None:
    assert total_variation(one_step_law(teacher), EQUAL) >= 0.49
