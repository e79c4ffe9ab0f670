"""Two estimates of E_q[-log p(x)] from one draw x ~ q, for a nearly independent mixture p.

Naive: -log p(x). With the control variate: the correlation part of x, and the marginal part in
closed form. S^D is enumerated, so that the law of both is known exactly.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from di4c_plugin.losses.mixture import (
    kl_divergence,
    log_mean_exp,
    token_log_prob,
)
from tests.enumeration import marginals, product_law, states
from tests.losses.joint import correlation_loss, joint_log_prob

N, D, S = 16, 8, 2


@dataclass(frozen=True)
class Estimate:
    """Value and gradient for every x: (S^D,) and (S^D, parameters)."""

    loss: Tensor
    gradient: Tensor


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def q() -> Tensor:
    """A correlated law to learn, (S^D,)."""
    return product_law(normal(4, D, S, seed=1).log_softmax(-1)).mean(0)


@pytest.fixture(scope="module")
def estimates(q: Tensor) -> tuple[Estimate, Estimate]:
    """Naive, and with the control variate; parameters are the logits of p."""
    logits = normal(1, 1, D, S, seed=2) + 0.05 * normal(N, 1, D, S, seed=3)
    logits.requires_grad_()
    log_p = logits.log_softmax(-1)
    ell = token_log_prob(log_p, states(S, D).unsqueeze(1))
    log_q_d = marginals(q, S, D).log()
    entropies = -(log_q_d.exp() * log_q_d).sum()
    marginal_part = kl_divergence(log_q_d, log_mean_exp(log_p)[0]) + entropies
    correlation_part = torch.cat([correlation_loss(one) for one in ell.split(1, dim=1)])

    def estimate(loss: Tensor) -> Estimate:
        rows = [torch.autograd.grad(one, logits, retain_graph=True)[0].flatten() for one in loss]
        return Estimate(loss.detach(), torch.stack(rows))

    return estimate(-joint_log_prob(ell)[:, 0]), estimate(correlation_part + marginal_part)


def variance(q: Tensor, values: Tensor) -> Tensor:
    """Of one draw, summed over coordinates."""
    return q @ (values - q @ values).pow(2).reshape(len(q), -1).sum(-1)


@pytest.mark.slow
def test_expectations_are_equal(q: Tensor, estimates: tuple[Estimate, Estimate]) -> None:
    naive, control = estimates
    torch.testing.assert_close(q @ control.loss, q @ naive.loss)
    torch.testing.assert_close(q @ control.gradient, q @ naive.gradient)


def test_variance_is_50_times_lower(q: Tensor, estimates: tuple[Estimate, Estimate]) -> None:
    naive, control = estimates
    assert variance(q, naive.loss) > 50 * variance(q, control.loss)
    assert variance(q, naive.gradient) > 50 * variance(q, control.gradient)


def test_draws_are_unbiased(q: Tensor, estimates: tuple[Estimate, Estimate]) -> None:
    """Means within 3 standard errors: the loss, and the gradient along the exact one."""
    naive, control = estimates
    draws = q.multinomial(40_000, replacement=True, generator=torch.Generator().manual_seed(0))
    direction = q @ naive.gradient
    for exact, drawn in [
        (q @ naive.loss, control.loss[draws]),
        (direction @ direction, control.gradient[draws] @ direction),
    ]:
        assert abs(drawn.mean() - exact) < 3 * drawn.std() / len(draws) ** 0.5
