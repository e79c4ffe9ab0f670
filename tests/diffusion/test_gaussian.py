import math

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import LOG_ZERO, DiscretisedGaussian

SIZES = [2, 3, 8, 9, 256]
ZERO = torch.zeros(1, dtype=torch.float64)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def released() -> DiscretisedGaussian:
    """The 256 levels of tauLDR's CIFAR-10 model."""
    return DiscretisedGaussian(256)


def paper_rate(size: int, rate_sigma: float, q_sigma: float) -> Tensor:
    """The rate matrix pair by pair: inwards by distance, outwards by detailed balance."""

    def inwards(i: int, j: int) -> float:
        up = i < size // 2 and i < j < size - i
        down = i > size // 2 and size - i - 1 < j < i
        return math.exp(-((abs(i - j) - 1) ** 2) / rate_sigma**2) if up or down else 0.0

    def log_pi(i: int) -> float:
        return -((i + 1 - size / 2) ** 2) / (2 * q_sigma**2)

    rate = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            if i != j:
                rate[i, j] = inwards(i, j) + inwards(j, i) * math.exp(log_pi(j) - log_pi(i))
        rate[i, i] = -rate[i].sum()
    return rate


def exponential(rate: Tensor, elapsed: float) -> Tensor:
    """exp(rate * elapsed) as a sum of non-negative terms, so that tiny entries are right as well.

    Uniformisation: a Poisson number of jumps by the stochastic matrix 1 + rate / fastest rate.
    """
    if elapsed == 0:
        return torch.eye(len(rate), dtype=torch.float64)
    top = float(-rate.diagonal().min()) * elapsed
    jump = torch.eye(len(rate), dtype=torch.float64) + rate * (elapsed / top)
    power, total = torch.eye(len(rate), dtype=torch.float64), torch.zeros_like(rate)
    for k in range(int(top + 12 * top**0.5) + 40):
        total += math.exp(k * math.log(top) - top - math.lgamma(k + 1)) * power
        power = power @ jump
    return total


@pytest.mark.parametrize("size", SIZES)
def test_rates_are_the_papers(size: int) -> None:
    rate = DiscretisedGaussian(size).rate
    torch.testing.assert_close(rate, paper_rate(size, 6.0, 512.0), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_the_rates_sum_to_0(size: int) -> None:
    rate = DiscretisedGaussian(size).rate
    torch.testing.assert_close(rate.sum(1), torch.zeros(size, dtype=torch.float64))
    assert (rate - torch.diag(rate.diagonal()) >= 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_detailed_balance_with_a_discretised_gaussian(size: int) -> None:
    process = DiscretisedGaussian(size, q_sigma=size / 2)
    weight = [math.exp(-2 * ((i + 1 - size / 2) / size) ** 2) for i in range(size)]
    pi = torch.tensor(weight, dtype=torch.float64) / sum(weight)
    torch.testing.assert_close(process.stationary, pi)
    flow = pi[:, None] * process.rate
    torch.testing.assert_close(flow, flow.T, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_stationary_law_stays(size: int) -> None:
    process = DiscretisedGaussian(size, q_sigma=3.0)
    moved = process.stationary @ process.transition(times(0.2), times(0.7))[0]
    torch.testing.assert_close(moved, process.stationary)


@pytest.mark.parametrize("t", [1e-3, 0.01, 0.3, 1.0])
def test_transition_is_the_exponential_of_the_rates(
    t: float, released: DiscretisedGaussian
) -> None:
    """At 3 (100^t - 1), tauLDR's integral of beta."""
    want = exponential(released.rate, 3 * (100**t - 1))
    torch.testing.assert_close(released.transition(ZERO, times(t))[0], want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [0.2, 1.0])
def test_both_constructions_agree_with_matrix_exp(t: float) -> None:
    process = DiscretisedGaussian(9)
    want = torch.matrix_exp(process.rate * (3 * (100**t - 1)))
    torch.testing.assert_close(process.transition(ZERO, times(t))[0], want, atol=1e-12, rtol=0)


def test_released_settings_all_but_reach_the_prior(released: DiscretisedGaussian) -> None:
    distance = (released.transition(ZERO, times(1))[0] - released.stationary).abs().sum(1) / 2
    assert distance.max() < 0.01


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.99), (0.3, 0.2), (0.02, 0.01), (0.01, 0.0)])
def test_posterior_of_a_vague_prediction(t: float, s: float, released: DiscretisedGaussian) -> None:
    """A uniform p_{0|t}: also the x_0 far from x_t, hardly ever its origin, keep their weight."""
    x_t = torch.arange(256)[None]
    log_p_0 = torch.full((1, 256, 256), -math.log(256), dtype=torch.float64)
    got = released.log_posterior(log_p_0, x_t, times(t), times(s))[0].exp()
    q_s0 = exponential(released.rate, 3 * (100**s - 1))
    q_ts = exponential(released.rate, 3 * (100**t - 100**s))
    want = (1 / (q_s0 @ q_ts)).T @ q_s0 * q_ts.T / 256
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.99), (0.3, 0.2), (0.02, 0.01), (0.01, 0.0)])
def test_normalised_for_predictions_far_from_x_t(
    t: float, s: float, released: DiscretisedGaussian
) -> None:
    x_t = torch.arange(256)[None]
    log_p_0 = torch.full((1, 256, 256), LOG_ZERO).scatter(-1, x_t.flip(1)[..., None], 0)
    log_p_s = released.log_posterior(log_p_0, x_t, times(t), times(s))
    torch.testing.assert_close(log_p_s.exp().sum(-1), torch.ones(1, 256))
