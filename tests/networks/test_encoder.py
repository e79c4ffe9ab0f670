"""The encoder of a latent: a Gaussian whose weights are the prior's, known positions left alone."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from di4c_plugin.diffusion import Absorbing, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.networks.encoder import Encoder, Posterior, encode
from tests.algorithms import tiny


def gaussians(seed: int = 0, shape: tuple[int, ...] = (4, 3, 2)) -> Posterior:
    random = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, *shape, generator=random, dtype=torch.float64)
    return Posterior(mean, log_variance)


def test_weights_and_divergence_are_those_of_normal_laws() -> None:
    q, noise = gaussians(), torch.randn(5, 4, 3, 2, dtype=torch.float64)
    latent, log_weight = q.at(noise)
    own = Normal(q.mean, (q.log_variance / 2).exp())
    prior = Normal(torch.zeros_like(q.mean), 1.0)
    z = torch.special.ndtri(latent)
    torch.testing.assert_close(z, q.mean + own.scale * noise)
    ratio = (prior.log_prob(z) - own.log_prob(z)).flatten(2).sum(-1)
    torch.testing.assert_close(log_weight, ratio)
    wanted = kl_divergence(own, prior).flatten(1).sum(-1)
    torch.testing.assert_close(q.divergence(), wanted)


def test_what_is_known_keeps_the_prior_and_nothing_flows_into_it() -> None:
    process, random = tiny.masked(), torch.Generator().manual_seed(0)
    encoder = Encoder(process, tiny.LENGTH, (tiny.LENGTH, 2), hidden_size=32).double()
    x_0 = tiny.batch(4).x_0
    t = torch.rand(4, generator=random, dtype=torch.float64)
    x_t = process.corrupt(x_0, t, generator=random)
    q, known = encode(encoder, x_0, x_t, t, (tiny.LENGTH, 2)), x_t != tiny.MASK
    assert q.mean.shape == q.log_variance.shape == (4, tiny.LENGTH, 2)
    assert not q.mean[known].any()
    assert not q.log_variance[known].any()
    assert q.mean[~known].all()


def test_it_sees_both_the_clean_and_the_noisy_tokens() -> None:
    process = tiny.masked()
    encoder = Encoder(process, tiny.LENGTH, (3,), hidden_size=32)
    x_0, t = tiny.batch(1).x_0, torch.ones(1, dtype=torch.float64)
    all_masks = torch.full_like(x_0, tiny.MASK)
    some = all_masks.clone()
    some[0, 0] = x_0[0, 0]
    other = x_0.clone()
    other[0, 3] = (other[0, 3] + 1) % (tiny.TOKENS - 1)
    means = [
        encode(encoder, x, noisy, t, (3,)).mean
        for x, noisy in ((x_0, all_masks), (x_0, some), (other, all_masks))
    ]
    assert means[0].shape == (1, 3)
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_shorter_sequences_than_the_longest() -> None:
    process = Absorbing(tiny.TOKENS, mask=tiny.MASK)
    encoder = Encoder(process, tiny.LENGTH, (tiny.LENGTH, 2), hidden_size=32)
    x_t = torch.full((2, 4), tiny.MASK)
    q = encode(encoder, tiny.batch(2).x_0[:, :4], x_t, torch.ones(2), (tiny.LENGTH, 2))
    assert q.mean.shape == (2, tiny.LENGTH, 2)
    assert not q.mean[:, 4:].any()


def test_a_latent_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"^an encoder is for .*\[5, 2\] and 6 positions"):
        Encoder(Uniform(3), 6, (5, 2))
