"""The mixture of N products, taken as exact, against sums over all of S^D."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import LOG_ZERO
from di4c_plugin.losses.mixture import (
    kl_divergence,
    log_mean_exp,
    token_log_prob,
)
from tests.enumeration import marginals, product_law, relative_entropy, states
from tests.losses.joint import correlation_loss, independent_log_prob, joint_log_prob

# N, B, D, S: odd, single and larger ones.
SHAPES = [(1, 1, 1, 1), (1, 2, 3, 2), (3, 1, 1, 4), (5, 2, 4, 3), (16, 3, 6, 2), (2, 1, 3, 16)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def mixture(shape: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> Tensor:
    """Random log p^d(. ; lambda_n), (N, B, D, S)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (scale * logits).log_softmax(-1)


def law(log_p: Tensor) -> Tensor:
    """The joint of the mixture, (B, S^D)."""
    return product_law(log_p).mean(0)


def everything(log_p: Tensor) -> Tensor:
    """All x of S^D as targets for each example: (J = S^D, B, D)."""
    _, b, d, s = log_p.shape
    return states(s, d).unsqueeze(1).expand(-1, b, -1)


@every_shape
def test_token_log_prob_looks_up_every_token(shape: tuple[int, ...]) -> None:
    n, b, d, s = shape
    log_p, x = mixture(shape), torch.randint(s, (4, b, d))
    ell = token_log_prob(log_p, x)
    assert ell.shape == (n, 4, b, d)
    for i, j, k, p in product(range(n), range(4), range(b), range(d)):
        assert ell[i, j, k, p] == log_p[i, k, p, x[j, k, p]]


@every_shape
def test_joint_is_the_mixture_of_products(shape: tuple[int, ...]) -> None:
    log_p = mixture(shape)
    joint = joint_log_prob(token_log_prob(log_p, everything(log_p))).exp()
    torch.testing.assert_close(joint.T, law(log_p))
    torch.testing.assert_close(joint.sum(0), torch.ones(shape[1], dtype=torch.float64))


@every_shape
def test_marginals_are_those_of_the_joint(shape: tuple[int, ...]) -> None:
    _, b, d, s = shape
    log_p = mixture(shape)
    want = torch.stack([marginals(law(log_p)[k], s, d) for k in range(b)])
    torch.testing.assert_close(log_mean_exp(log_p).exp(), want)


@every_shape
def test_independent_is_the_product_of_marginals(shape: tuple[int, ...]) -> None:
    log_p = mixture(shape)
    independent = independent_log_prob(token_log_prob(log_p, everything(log_p))).exp()
    torch.testing.assert_close(independent.T, product_law(log_mean_exp(log_p)))


def test_log_mean_exp_does_not_overflow() -> None:
    values = torch.tensor([[900.0, -900.0], [900.0, -900.0]])
    torch.testing.assert_close(log_mean_exp(values), torch.tensor([900.0, -900.0]))


@every_shape
def test_kl_of_products_is_that_of_the_laws(shape: tuple[int, ...]) -> None:
    log_q, log_p = mixture(shape, seed=1), mixture(shape)
    want = relative_entropy(product_law(log_q), product_law(log_p))
    torch.testing.assert_close(kl_divergence(log_q, log_p), want)


@every_shape
def test_one_latent_has_no_correlation(shape: tuple[int, ...]) -> None:
    log_p = mixture(shape)[:1]
    loss = correlation_loss(token_log_prob(log_p, everything(log_p)))
    torch.testing.assert_close(loss, torch.zeros_like(loss))


@every_shape
def test_cross_entropy_is_correlation_plus_marginals(shape: tuple[int, ...]) -> None:
    """E_q[-log p] = E_q[-log p + log p_bar] + sum_d E_{q^d}[-log p_bar^d], for any joint q."""
    _, b, d, s = shape
    log_p, q = mixture(shape), law(mixture((4, b, d, s), seed=1, scale=3))
    ell = token_log_prob(log_p, everything(log_p))
    correlation = sum(q[:, j] * correlation_loss(ell[:, j : j + 1]) for j in range(ell.shape[1]))
    marginal = -torch.stack(
        [(marginals(q[k], s, d) * log_mean_exp(log_p)[k]).sum() for k in range(b)]
    )
    want = -(q * law(log_p).log()).sum(-1)
    torch.testing.assert_close(correlation + marginal, want)


@every_shape
def test_relative_entropy_is_correlation_plus_marginals(shape: tuple[int, ...]) -> None:
    """KL(q || p) = KL(q || prod_d q^d) + E_q[-log p + log p_bar] + sum_d KL(q^d || p_bar^d)."""
    _, b, d, s = shape
    log_p, log_q = mixture(shape), mixture((4, b, d, s), seed=1)
    ell = token_log_prob(log_p, everything(log_p))
    correlation = (law(log_q) * (independent_log_prob(ell) - joint_log_prob(ell)).T).sum(-1)
    marginal = kl_divergence(log_mean_exp(log_q), log_mean_exp(log_p))
    own = relative_entropy(law(log_q), product_law(log_mean_exp(log_q)))
    want = relative_entropy(law(log_q), law(log_p))
    torch.testing.assert_close(own + correlation + marginal, want)


def test_correlation_loss_is_the_mean_over_targets() -> None:
    log_p = mixture((3, 2, 4, 3))
    ell = token_log_prob(log_p, torch.randint(3, (7, 2, 4)))
    each = torch.stack([correlation_loss(ell[:, j : j + 1]) for j in range(7)])
    torch.testing.assert_close(correlation_loss(ell), each.mean(0))


def test_inactive_positions_do_not_count() -> None:
    """As if they were not there, whatever the prediction says of them."""
    log_p, x = mixture((3, 2, 5, 4)), torch.randint(4, (6, 2, 5))
    active = torch.tensor([[True, False, True, True, False], [False] * 5])
    ell = token_log_prob(log_p, x, active)
    assert (ell[:, :, ~active] == 0).all()
    open_only = token_log_prob(log_p[:, :1, active[0]], x[:, :1, active[0]])
    torch.testing.assert_close(joint_log_prob(ell)[:, :1], joint_log_prob(open_only))
    torch.testing.assert_close(independent_log_prob(ell)[:, :1], independent_log_prob(open_only))
    assert joint_log_prob(ell)[:, 1].abs().max() < 1e-15
    kl = kl_divergence(log_p[0], log_p[1], active)
    want = kl_divergence(log_p[0, 0, active[0]], log_p[1, 0, active[0]])
    torch.testing.assert_close(kl, torch.stack([want, torch.zeros_like(want)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_with_impossible_tokens(dtype: torch.dtype) -> None:
    """Point masses that differ between lambdas, and targets that no lambda gives."""
    log_p = torch.full((3, 1, 2, 4), LOG_ZERO, dtype=dtype)
    log_p[0, ..., 0] = log_p[1, ..., 1] = log_p[2, ..., 2] = 0
    log_p.requires_grad_()
    x = torch.tensor([[[0, 0]], [[0, 1]], [[3, 3]]])
    kl = kl_divergence(log_mean_exp(log_p), log_mean_exp(log_p.roll(1, -1)))
    loss = correlation_loss(token_log_prob(log_p, x)) + kl
    loss.sum().backward()
    assert loss.isfinite().all()
    assert log_p.grad is not None
    assert log_p.grad.isfinite().all()


def test_long_sequences_do_not_underflow() -> None:
    """e^-7000 is 0 in any float; its logarithm is not."""
    log_p = torch.full((4, 1, 1000, 1097), -math.log(1097))
    ell = token_log_prob(log_p, torch.zeros(1, 1, 1000, dtype=torch.long))
    assert joint_log_prob(ell).item() == pytest.approx(-1000 * math.log(1097), rel=1e-6)
    assert correlation_loss(ell).item() == pytest.approx(0, abs=0.01)
