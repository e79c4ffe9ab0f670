"""Likelihood bounds against sums over all sets of masks, and against likelihoods themselves."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, DuoCosine, LogLinear, Uniform
from di4c_plugin.diffusion.schedule import time_of_share
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.likelihood import bound, is_greedy
from tests.enumeration import TableDenoiser

PROCESS = Absorbing(3)
MASK = 3
X = torch.tensor([1, 2, 0])
ALL = torch.ones(3, dtype=torch.bool)
LAST = torch.tensor([False, True, True])  # the first token is given


class Timeless:
    """A table that does not look at the time."""

    def __init__(self, table: TableDenoiser) -> None:
        self.table, self.latent_shape = table, table.latent_shape

    def __call__(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
        return self.table(x_t, torch.full_like(t, 0.5), **options)


def estimate(denoiser: Any, scored: Tensor = ALL, *, seed: int = 0, **options: Any) -> Figure:
    generator = torch.Generator().manual_seed(seed)
    process = options.pop("process", PROCESS)
    return bound(denoiser, process, X, scored, generator=generator, **options)


def log_p(denoiser: Any, masked: tuple[int, ...], t: float = 0.5) -> Tensor:
    """log p(x_i | the others) at the masked positions, of every component (N, |M|)."""
    x_t = X.clone()
    x_t[list(masked)] = MASK
    components = 1 if denoiser.latent_shape is None else 2
    found = []
    for n in range(components):
        latent = None if components == 1 else torch.tensor([[(n + 0.5) / components]])
        told = denoiser(x_t[None], torch.tensor([t], dtype=torch.float64), latent=latent)[0]
        found.append(torch.stack([told[i, X[i]] for i in masked]))
    return torch.stack(found)


def exact(denoiser: Any, positions: tuple[int, ...]) -> float:
    """The bound by its definition, with the marginal of a mixture."""
    total = 0.0
    for size in range(1, len(positions) + 1):
        sets = list(itertools.combinations(positions, size))
        for masked in sets:
            mean = log_p(denoiser, masked).exp().mean(0).log().sum()
            total += float(mean) / size / len(sets)
    return total


def likelihood(denoiser: Any, positions: tuple[int, ...]) -> float:
    """log p(x) of opening one token after the other in a random order."""
    orders = list(itertools.permutations(positions))
    total = 0.0
    for order in orders:
        parts = (log_p(denoiser, order[k:])[:, 0].exp().mean() for k in range(len(order)))
        total += math.prod(map(float, parts)) / len(orders)
    return math.log(total)


@pytest.mark.parametrize(("scored", "positions"), [(ALL, (0, 1, 2)), (LAST, (1, 2))])
def test_it_is_the_sum_over_all_sets_and_below_the_likelihood(
    scored: Tensor, positions: tuple[int, ...]
) -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3))
    found = estimate(denoiser, scored, count=20_000, batch_size=20_000)
    assert found.error is not None
    true = exact(denoiser, positions)
    assert abs(found.value - true) < 4 * found.error < 0.05
    assert true < likelihood(denoiser, positions) - 0.01


def test_one_scored_token_has_its_likelihood_itself() -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3))
    found = estimate(denoiser, torch.tensor([False, False, True]), count=2)
    assert found.value == pytest.approx(float(log_p(denoiser, (2,))[0, 0]))
    assert found.error == pytest.approx(0)


@pytest.mark.parametrize("schedule", [LogLinear(), DuoCosine()])
def test_a_network_that_is_told_the_time_has_the_integral_over_it(schedule: Any) -> None:
    """Masked diffusion's bound as MDLM writes it, on a fine grid of times."""
    process = Absorbing(3, schedule)
    denoiser = TableDenoiser(process, 3)
    shares = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    times = time_of_share(schedule, shares)
    assert torch.allclose(1 - schedule.alpha(times), shares)
    total = 0.0
    for size in range(1, 4):
        for masked in itertools.combinations(range(3), size):
            chance = shares**size * (1 - shares) ** (3 - size)
            x_t = X.clone()
            x_t[list(masked)] = MASK
            told = denoiser(x_t.expand(2000, -1), times)[:, list(masked), X[list(masked)]].sum(-1)
            total += float((chance / shares * told).mean())
    found = estimate(denoiser, process=process, count=20_000, batch_size=20_000)
    assert found.error is not None
    assert abs(found.value - total) < 4 * found.error


def test_more_latents_come_nearer_to_the_mixture_from_below() -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3, components=2))
    few, many = (estimate(denoiser, count=20_000, batch_size=50_000, latents=n) for n in (1, 16))
    true = exact(denoiser, (0, 1, 2))
    assert few.error is not None
    assert many.error is not None
    assert few.value < true - 4 * few.error
    assert abs(many.value - true) < 4 * many.error  # each component has half of the latents


def test_the_standard_error_is_that_of_repetition() -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3))
    found = [estimate(denoiser, seed=k, count=30) for k in range(200)]
    scatter = float(torch.tensor([f.value for f in found]).std())
    claimed = float(torch.tensor([f.error for f in found]).square().mean().sqrt())
    assert 0.85 < claimed / scatter < 1.6


def test_batches_and_masks_around_change_nothing() -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3))
    assert estimate(denoiser, count=7, batch_size=7).value != 0
    x = torch.tensor([1, 2, MASK])
    generator = torch.Generator().manual_seed(0)
    found = bound(denoiser, PROCESS, x, x != MASK, count=9, generator=generator)
    assert math.isfinite(found.value)


def test_what_is_greedy() -> None:
    denoiser = Timeless(TableDenoiser(PROCESS, 3))
    x = torch.full((3,), MASK)
    for _ in range(3):
        best, token = denoiser(x[None], torch.tensor([0.5], dtype=torch.float64))[0].max(-1)
        place = int(best.where(x == MASK, -torch.inf).argmax())
        x[place] = token[place]
    for other in itertools.product(range(3), repeat=3):
        y = torch.tensor(other)
        generator = torch.Generator()
        told = is_greedy(denoiser, PROCESS, y, ALL, generator=generator)
        assert told == bool((y == x).all())


def test_mistakes() -> None:
    denoiser = TableDenoiser(PROCESS, 3)
    with pytest.raises(UserError, match="are for masked diffusion"):
        estimate(denoiser, process=Uniform(3))
    with pytest.raises(UserError, match="takes at least 2 sets"):
        estimate(denoiser, count=1)
    generator = torch.Generator()
    with pytest.raises(UserError, match="3 is no token whose likelihood"):
        bound(denoiser, PROCESS, torch.tensor([3, 1, 1]), ALL, generator=generator)
