"""The losses of D-MMD at a position, against sums written out and against autograd in logits."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from di4c_plugin.losses.moments import (
    cross_entropy,
    entropy,
    generator_loss,
    jeffreys_loss,
    sharpened,
    soft_cross_entropy,
)

N, P, S = 2, 3, 5


def logits(seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(N, P, S, generator=random, dtype=torch.float64).requires_grad_()


def normal(seed: int) -> Tensor:
    return logits(seed).log_softmax(-1)


def test_the_gradient_of_the_generator_is_the_closed_form() -> None:
    z, log_phi, log_theta = logits(0), normal(1), normal(2)
    log_p = z.log_softmax(-1)
    (found,) = torch.autograd.grad(generator_loss(log_p, log_phi, log_theta).sum(), z)
    p, r = log_p.exp(), log_phi - log_theta
    torch.testing.assert_close(found, p * (r - (p * r).sum(-1, keepdim=True)))


def test_the_generator_is_zero_where_the_auxiliary_is_the_teacher() -> None:
    z, log_phi = logits(0), normal(1)
    value = generator_loss(z.log_softmax(-1), log_phi, log_phi)
    (found,) = torch.autograd.grad(value.sum(), z)
    assert not value.any()
    assert not found.any()


@pytest.mark.parametrize("beta", [0.0, -0.2, 0.5, 1.0])
def test_jeffreys_carries_the_gradient_of_the_divergence(beta: float) -> None:
    z, of_phi, log_theta = logits(0), logits(1), normal(2)
    value = jeffreys_loss(z.log_softmax(-1), of_phi.log_softmax(-1), log_theta, beta)
    (found,) = torch.autograd.grad(value.sum(), z)
    log_phi = of_phi.log_softmax(-1)
    phi, theta = log_phi.exp(), log_theta.exp()
    divergence = (1 - beta) * (theta * (log_theta - log_phi)).sum(-1)
    divergence = divergence + beta * (phi * (log_phi - log_theta)).sum(-1)
    (wanted,) = torch.autograd.grad(divergence.sum(), of_phi)
    torch.testing.assert_close(value, divergence)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("loss", [generator_loss, partial(jeffreys_loss, beta=0.3)])
def test_the_student_alone_learns_from_its_loss(loss: object) -> None:
    own, phi, theta = logits(0), logits(1), logits(2)
    loss(own.log_softmax(-1), phi.log_softmax(-1), theta.log_softmax(-1)).sum().backward()  # type: ignore[operator]
    assert own.grad is not None
    assert phi.grad is None
    assert theta.grad is None


def test_cross_entropies() -> None:
    log_p, log_phi = normal(0), normal(1)
    x = torch.tensor([4, 0, 2])
    hard, soft = cross_entropy(x, log_phi), soft_cross_entropy(log_p, log_phi)
    for n in range(N):
        for p in range(P):
            assert hard[n, p] == -log_phi[n, p, x[p]]
            wanted = -sum(math.exp(log_p[n, p, c]) * float(log_phi[n, p, c]) for c in range(S))
            assert soft[n, p].item() == pytest.approx(wanted)
    torch.testing.assert_close(entropy(log_p), soft_cross_entropy(log_p, log_p))


P_4 = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.4, [1]), (0.5, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_the_nucleus_is_the_fewest_likeliest_tokens(top_p: float, kept: list[int]) -> None:
    weight = torch.full_like(P_4, math.exp(-2.0))
    weight[kept] = 1
    wanted = P_4 * weight / (P_4 * weight).sum()
    torch.testing.assert_close(sharpened(P_4.log(), 1.0, top_p, 2.0).exp(), wanted)


def test_the_nucleus_is_of_the_tempered_law() -> None:
    """At temperature 1/2 the likeliest token holds .25 / .345 = .72."""
    tempered = P_4**2 / (P_4**2).sum()
    torch.testing.assert_close(sharpened(P_4.log(), 0.5, 1.0, 2.0).exp(), tempered)
    weight = torch.tensor([math.exp(-3), 1, math.exp(-3), math.exp(-3)], dtype=torch.float64)
    wanted = tempered * weight / (tempered * weight).sum()
    torch.testing.assert_close(sharpened(P_4.log(), 0.5, 0.7, 3.0).exp(), wanted)


def test_log_ratios_to_a_nucleus_are_finite() -> None:
    """A barred token stays barred; the others lose `penalty`, and what the sum gains."""
    log_p = torch.tensor([0.0, -1.0, -30.0, -1e6]).log_softmax(-1)
    ratio = log_p - sharpened(log_p, 1.0, 0.5, 2.0)
    assert ratio[:3].abs().max() <= 2
    assert sharpened(log_p, 1.0, 0.5, 2.0)[3] <= -1e6
