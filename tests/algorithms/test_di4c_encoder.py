"""Di4C's data term by an encoder: a bound, by sums and quadrature in float64."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms import di4c_encoder
from di4c_plugin.algorithms.base import Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.algorithms.di4c_encoder import DataBound, data_bound
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.networks.denoiser import repeated
from di4c_plugin.networks.encoder import Posterior, encode
from di4c_plugin.networks.latent.base import gaussian
from di4c_plugin.networks.predict import States
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.algorithms import tiny
from tests.algorithms.killed import goes_on_bit_for_bit
from tests.enumeration import TableDenoiser, states
from tests.training import toy

LATENT = {"name": "mask_noise", "dim": 2, "std": 0.5}
SPACES = [Absorbing(3), Uniform(3)]


class Smooth:
    """Two positions whose logits are linear in one normal z: log p(x_0 | x_t) is an integral."""

    latent_shape = (1,)

    def __init__(self, process: Process) -> None:
        self.process = process
        random = torch.Generator().manual_seed(0)
        shape = (process.num_states**2, 2, process.num_tokens)
        self.offset, self.slope = torch.randn(2, *shape, generator=random, dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor, *, cond: Any = None, latent: Any = None) -> Tensor:
        x_t, t = repeated(len(latent), x_t, t)
        row = x_t[:, 0] * self.process.num_states + x_t[:, 1]
        z = torch.special.ndtri(latent.double().clamp(1e-15, 1 - 1e-15)).unsqueeze(-1)
        log_p = (self.offset[row] + z * self.slope[row]).log_softmax(-1)
        return self.process.carry_over(log_p, x_t)


def grid(count: int) -> tuple[Tensor, Tensor]:
    """Points and log-weights of a quadrature of the standard normal."""
    z = torch.linspace(-9, 9, count, dtype=torch.float64)
    log_weight = -z.square() / 2
    return z, log_weight - log_weight.logsumexp(0)


def pairs(process: Process) -> tuple[Tensor, Tensor]:
    """Clean and noisy tokens, every pair that agrees where the noisy ones are known."""
    x_0, x_t = states(process.num_tokens, 2), states(process.num_states, 2)
    x_0, x_t = x_0.repeat_interleave(len(x_t), 0), x_t.repeat(len(x_0), 1)
    fits = ((x_0 == x_t) | process.active(x_t)).all(-1)
    return x_0[fits], x_t[fits]


def joint(student: Any, x_0: Tensor, x_t: Tensor, latent: Tensor) -> Tensor:
    """log prod_d p^d(x_0^d | x_t; lambda), (K, R), of dense tables."""
    rows = student(x_t, torch.ones(len(x_t)).double(), latent=latent.flatten(0, 1))
    picked = rows.gather(-1, x_0.repeat(len(latent), 1).unsqueeze(-1)).squeeze(-1)
    open_here = student.process.active(x_t).repeat(len(latent), 1)
    return picked.where(open_here, 0).sum(-1).unflatten(0, latent.shape[:2])


@pytest.mark.parametrize("process", SPACES, ids=["mask3", "uniform3"])
def test_the_bound_is_below_the_likelihood_and_the_weights_are_unbiased(process: Process) -> None:
    student = Smooth(process)
    x_0, x_t = pairs(process)
    random = torch.Generator().manual_seed(1)
    mean, log_variance = torch.randn(2, len(x_0), 1, generator=random).double()
    q = Posterior(0.7 * mean, 0.2 * log_variance)
    z, log_p = grid(2001)
    everywhere = torch.special.ndtr(z).view(-1, 1, 1).expand(-1, len(x_0), 1)
    likelihood = (joint(student, x_0, x_t, everywhere) + log_p.unsqueeze(-1)).logsumexp(0)

    latent, log_weight = q.at(z.view(-1, 1, 1).expand(-1, len(x_0), 1))
    of_draw = joint(student, x_0, x_t, latent) + log_weight
    weighted = (of_draw + log_p.unsqueeze(-1)).logsumexp(0)
    torch.testing.assert_close(weighted, likelihood, rtol=0, atol=1e-6)

    chance = log_p.exp().unsqueeze(-1)
    one = (chance * of_draw).sum(0)
    closed = (chance * joint(student, x_0, x_t, latent)).sum(0) - q.divergence()
    torch.testing.assert_close(one, closed, rtol=0, atol=1e-6)
    some = of_draw[::20]
    share = (log_p[::20] - log_p[::20].logsumexp(0)).exp()
    both = torch.logaddexp(some.unsqueeze(0), some.unsqueeze(1)) - math.log(2)
    two = torch.einsum("i,j,ijr->r", share, share, both)
    assert (one <= two + 1e-9).all()
    assert (two <= likelihood + 1e-9).all()
    hidden = process.active(x_t).any(-1)
    assert (one < likelihood - 1e-4)[hidden].all()


class Exact:
    """The posterior over the cells of a table, in the place of a Gaussian."""

    def __init__(self, table: TableDenoiser, x_0: Tensor, x_t: Tensor) -> None:
        middles = (torch.arange(table.components) + 0.5) / table.components
        latent = middles.view(-1, 1, 1).expand(-1, len(x_0), 1)
        self.cells, self.mean = table.components, torch.zeros(len(x_0), 1).double()
        self.log_q = joint(table, x_0, x_t, latent).log_softmax(0)

    def at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.special.ndtr(noise.squeeze(-1))
        cell = (u.unsqueeze(0) >= self.log_q.exp().cumsum(0)[:-1].unsqueeze(1)).sum(0)
        log_q = self.log_q.gather(0, cell)
        return ((cell + 0.5) / self.cells).unsqueeze(-1), -log_q - math.log(self.cells)

    def divergence(self) -> Tensor:
        return (self.log_q.exp() * (self.log_q + math.log(self.cells))).sum(0)


@pytest.mark.parametrize("process", SPACES, ids=["mask3", "uniform3"])
@pytest.mark.parametrize("count", [2, 5])
def test_with_the_exact_posterior_the_bound_is_the_likelihood(
    process: Process, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = TableDenoiser(process, 2, 3)
    x_0, x_t = pairs(process)
    monkeypatch.setattr(di4c_encoder, "encode", lambda e, x, y, t, shape: Exact(table, x, y))
    cells = ((torch.arange(3) + 0.5) / 3).view(-1, 1, 1).expand(-1, len(x_0), 1)
    likelihood = log_mean_exp(joint(table, x_0, x_t, cells))
    found = bound_of(table, None, x_0.unsqueeze(0), x_t, count=count)
    torch.testing.assert_close(found.value, likelihood, rtol=0, atol=1e-12)
    many = x_0.repeat(4000, 1, 1)
    mean = bound_of(table, None, many, x_t, count=1).value
    assert (mean - likelihood).abs().max() < 0.06


def bound_of(
    student: Any,
    encoder: Any,
    x_0: Tensor,
    x_t: Tensor,
    *,
    count: int,
    hidden: bool = False,
    generator: torch.Generator | None = None,
) -> DataBound:
    t = torch.ones(len(x_t), dtype=torch.float64)
    return data_bound(
        student,
        encoder,
        x_0,
        States(x_t.unsqueeze(0), t, None, None),
        student.process,
        count=count,
        generator=generator or torch.Generator().manual_seed(3),
        hidden=hidden,
        max_bytes=12 * tiny.TOKENS * 3,
    )


# ---- the loss of Di4C


def networks(process: Process, **options: Any) -> tuple[Di4C, dict[str, Any]]:
    method = Di4C(process, latents=3, label_dropout=0.0, encoder_hidden=32, **options)
    made: dict[str, Any] = dict(tiny.networks(process, LATENT))
    make = method.roles["encoder"].make
    assert make is not None
    torch.manual_seed(0)
    return method, made | {"encoder": make(made["student"], tiny.LENGTH).double()}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("process", [tiny.masked(), Uniform(tiny.TOKENS)], ids=["mask", "uniform"])
def test_gradients_are_those_of_the_definition(process: Process, hidden: bool, count: int) -> None:
    _, made = networks(process, encoder=count)
    student, encoder = made["student"], made["encoder"]
    random = torch.Generator().manual_seed(0)
    x_t = process.corrupt(tiny.batch(2).x_0, torch.full((2,), 0.6), generator=random)
    x_0 = torch.stack([tiny.batch(2, seed).x_0 for seed in range(3)])
    x_0 = x_0.where(process.active(x_t), x_t)
    found = bound_of(student, encoder, x_0, x_t, count=count, hidden=hidden)
    found.value.sum().backward()
    of_chunks = [tiny.gradients(made[name]) for name in ("student", "encoder")]

    values = []
    draws = torch.Generator().manual_seed(3)
    noise = torch.randn(count, 6, tiny.LENGTH, 2, generator=draws, dtype=torch.float64)
    for row in range(6):
        clean, noisy = x_0.flatten(0, 1)[row : row + 1], x_t[row % 2 : row % 2 + 1]
        q = encode(encoder, clean, noisy, torch.ones(1).double(), student.latent_shape)
        z = q.mean + (q.log_variance / 2).exp() * noise[:, row : row + 1]
        log_p = joint(student, clean, noisy, torch.special.ndtr(z))
        if count == 1:
            values.append(log_p[0] - q.divergence())
        else:
            ratio = noise[:, row].square() + q.log_variance - z[:, 0].square()
            values.append(log_mean_exp(log_p[:, 0] + ratio.flatten(1).sum(-1) / 2).view(1))
    wanted = torch.stack(values).view(3, 2).mean(0)
    torch.testing.assert_close(found.value, wanted)
    wanted.sum().backward()
    dense = [tiny.gradients(made[name]) for name in ("student", "encoder")]
    torch.testing.assert_close(of_chunks, dense, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"prior_share": 1.0}, {"windows": [2]}])
@pytest.mark.parametrize("loss", ["naive", "checkpoint", "chunked", "two_pass"])
def test_the_ways_of_the_loss_agree_and_reach_both_networks(
    loss: str, options: dict[str, Any]
) -> None:
    results = []
    for way in ("naive", loss):
        method, made = networks(tiny.masked(), encoder=2, loss=way, **options)
        found = method.losses(tiny.batch(4), made, update())
        assert found.totals.keys() == {"student", "encoder"}
        assert {"data_corr", "encoder_kl"} <= found.terms.keys()
        found.total.backward()
        gradients = [tiny.gradients(made[name]) for name in ("student", "encoder")]
        assert all(any(g.abs().max() > 1e-6 for g in own.values()) for own in gradients)
        results.append((found.terms, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-8)


def test_the_data_term_alone_is_another_one() -> None:
    """Everything else is as without an encoder: it takes no draw before the others."""
    method, made = networks(tiny.masked(), encoder=1)
    with_it = method.losses(tiny.batch(4), made, update()).terms
    plain = Di4C(tiny.masked(), latents=3, label_dropout=0.0)
    without = plain.losses(tiny.batch(4), made, update()).terms
    different = {name for name, value in without.items() if not torch.equal(value, with_it[name])}
    assert different == {"data_corr"}


def update() -> Update:
    return Update(torch.Generator().manual_seed(0))


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="^encoder is for the term data_corr, whose weight is 0$"):
        Di4C(tiny.masked(), encoder=1, weights={"data_corr": 0.0})


# ---- runs of two networks


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config = TrainingConfig(steps=7, batch_size=3, checkpoint_every=2, log_every=1, logger="none")

    def run(out: Path, *, resume: bool = False) -> Model:
        method = Di4C(Absorbing(3), latents=2, encoder=1, encoder_hidden=32)
        start, teacher = toy.student("mask_noise"), toy.teacher()
        make = method.roles["encoder"].make
        assert make is not None
        denoiser: Any = make(start.denoiser, 4)
        others = {"encoder": Model(denoiser, denoiser.network.config)}
        data = toy.data()
        return train(
            method, start, teacher, data, config, out, others=others, resume=resume, progress=False
        )

    goes_on_bit_for_bit(run, tmp_path, "encoder")


PAIRS = 16


class Pairs:
    """16 pairs of equal fair bits, each told by about the sign of the first one's z."""

    latent_shape = (2 * PAIRS, 1)

    def __init__(self) -> None:
        self.process = Absorbing(2)

    def __call__(self, x_t: Tensor, t: Tensor, *, cond: Any = None, latent: Any = None) -> Tensor:
        z = 3 * gaussian(latent)[:, ::2].repeat_interleave(2, 1)
        log_p = torch.cat([z, -z, torch.full_like(z, -1e6)], -1).log_softmax(-1)
        return self.process.carry_over(log_p, x_t.repeat(len(latent) // len(x_t), 1))


def test_one_draw_goes_beyond_what_log_n_draws_of_the_prior_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pairs hold 16 log 2 = 11.1 nats; 16 draws of the prior gain no more than log 16 = 2.8."""
    student, random = Pairs(), torch.Generator().manual_seed(0)

    def told(encoder: Any, x_0: Tensor, x_t: Tensor, t: Tensor, shape: Any) -> Posterior:
        first = (torch.arange(2 * PAIRS) % 2 == 0).unsqueeze(-1)
        sign = (1.0 - 2.0 * x_0).double().unsqueeze(-1)
        return Posterior((0.9 * sign).where(first, 0), torch.full_like(sign, -1.8).where(first, 0))

    monkeypatch.setattr(di4c_encoder, "encode", told)
    bits = torch.randint(2, (500, 1, PAIRS), generator=random).repeat_interleave(2, -1)
    x_t = torch.full_like(bits[0], student.process.mask)
    bound = bound_of(student, None, bits, x_t, count=1)
    assert float(bound.value) + 2 * PAIRS * math.log(2) > math.log(16) + 1
