import math

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.denoising import Denoising, elbo_weight
from di4c_plugin.diffusion import Absorbing, Arccos, Cosine, LogLinear, Process, Schedule, Uniform
from tests.enumeration import TableDenoiser, states

T = torch.tensor([0.05, 0.3, 0.77, 1.0], dtype=torch.float64)


def test_the_weight_of_the_log_linear_schedule_is_one_over_t() -> None:
    assert torch.allclose(elbo_weight(LogLinear(), T), 1 / T)


def test_the_weight_of_the_cosine_schedule() -> None:
    angle = T[:3] * math.pi / 2
    expected = math.pi / 2 * angle.sin() / (1 - angle.cos())
    assert torch.allclose(elbo_weight(Cosine(), T[:3]), expected)


def test_the_weight_of_the_arccos_schedule() -> None:
    slope = 2 / math.pi / (1 - (1 - T) ** 2).sqrt()
    assert torch.allclose(elbo_weight(Arccos(), T), slope / (torch.arccos(1 - T) * 2 / math.pi))


class Timeless(TableDenoiser):
    """The same prediction at every t, as masked diffusion allows."""

    def __init__(self, process: Process, positions: int) -> None:
        super().__init__(process, positions, seed=3)
        self.logits[1] = self.logits[0]


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine(), Arccos()])
def test_the_loss_of_masked_diffusion_is_the_bound_whatever_the_schedule(
    schedule: Schedule,
) -> None:
    """For k tokens and m masks, the weighted integral over t is Beta(k + 1, m)."""
    process, x_0 = Absorbing(3, schedule), torch.tensor([2, 0])
    denoiser = Timeless(process, 2)
    bound = 0.0
    for pattern in states(2, 2):
        masks = int(pattern.sum())
        if masks:
            x_t = x_0.where(pattern == 0, process.mask)[None]
            log_p = denoiser(x_t, torch.ones(1, dtype=torch.float64))[0]
            beta = math.gamma(3 - masks) * math.gamma(masks) / math.gamma(3)
            bound -= beta * float(log_p[torch.arange(2), x_0][pattern == 1].sum())
    generator = torch.Generator().manual_seed(0)
    batch = Batch(x_0.expand(200_000, 2))
    algorithm = Denoising(process, min_time=1e-5)
    terms = algorithm.losses(batch, {"student": denoiser}, Update(generator))
    assert terms.total.item() == pytest.approx(bound, rel=0.02)
    assert terms.terms.keys() == {"nelbo"}


def test_other_processes_pay_the_plain_cross_entropy() -> None:
    process, x_0 = Uniform(2), torch.tensor([[0, 1], [1, 1]])

    def sure_of_one(*args: object, **kwargs: object) -> torch.Tensor:
        return torch.tensor([0.25, 0.75]).log().expand(2, 2, 2)

    generator = torch.Generator().manual_seed(0)
    networks = {"student": sure_of_one}
    terms = Denoising(process).losses(Batch(x_0), networks, Update(generator))
    expected = -(math.log(0.25) + 3 * math.log(0.75)) / 2
    assert terms.total.item() == pytest.approx(expected, rel=1e-6)
    assert terms.terms.keys() == {"cross_entropy"}
