"""Counts by formula, the order by its exact law: Gumbel ranks are draws without replacement."""

from itertools import pairwise, permutations

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import (
    LOG_ZERO,
    Absorbing,
    Arccos,
    Confidence,
    DuoCosine,
    Halton,
    LogLinear,
    Ordered,
    Root,
    Schedule,
    Square,
    build_process,
    time_grid,
)
from di4c_plugin.errors import UserError
from tests.enumeration import assert_drawn_from, product_law, rank, states

SCHEDULES = [Arccos(), LogLinear(), LogLinear(eps=1e-3), DuoCosine(), Root(), Square()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
every_order = pytest.mark.parametrize(
    "kind", [Confidence, Halton], ids=lambda kind: kind.__name__.lower()
)
T = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.3, 0.02], dtype=torch.float64)
S = torch.tensor([0.0, 0.5, 0.85, 0.49, 0.0, 0.01], dtype=torch.float64)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def masked_states(process: Absorbing, t: Tensor, side: int, seed: int = 0) -> Tensor:
    x_0 = torch.zeros(len(t), side * side, dtype=torch.int64)
    return process.corrupt(x_0, t, generator=torch.Generator().manual_seed(seed))


# Counts


@every_schedule
def test_the_share_of_masks_that_stays_is_that_of_the_schedule(schedule: Schedule) -> None:
    """m gamma_s / gamma_t to within one; one at least, all at s = 0: for 200 random states."""
    process = Confidence(3, schedule)
    gamma = [1 - schedule.alpha(time) for time in (T, S)]
    for seed in range(200):
        x_t = masked_states(process, T, 8, seed)
        masked = process.active(x_t).sum(-1)
        count = process.count(x_t, T, S)
        assert count.dtype == torch.int64
        assert ((count >= 1) & (count <= masked))[masked > 0].all()
        assert (count == 0)[masked == 0].all()
        assert (count == masked)[S == 0].all()
        want = masked - masked * gamma[1] / gamma[0]
        free = (S > 0) & (want >= 1) & (want <= masked - 1)
        assert ((count - want).abs() <= 1 + 1e-9)[free].all()


@every_schedule
@pytest.mark.parametrize("side", [8, 16, 24])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 12, 16, 32])
def test_a_run_has_the_counts_of_the_schedule(schedule: Schedule, side: int, steps: int) -> None:
    """HaltonSampler's rule max(i + 1, int(D alpha)), to within the rounding of one token."""
    process, d = Confidence(3, schedule), side * side
    x = torch.full((1, d), process.mask)
    times = time_grid(steps)
    for index, (t, s) in enumerate(pairwise(times[:, None])):
        opened = int(process.count(x, t, s))
        left = int(process.active(x).sum()) - opened
        x = torch.zeros_like(x).where(torch.arange(d) >= left, process.mask)
        host = max(index + 1, int(d * float(schedule.alpha(s)) + 1e-9))
        # Square opens less than a token a step at the start: the host then catches up at once.
        slack = 1 if not isinstance(schedule, Square | DuoCosine) else 4
        assert abs((d - left) - host) <= slack
    assert not process.active(x).any()


def test_where_alpha_rounds_to_1_a_mask_opens() -> None:
    process = Confidence(3)
    x_t = torch.tensor([[0, 3, 3]])
    t, s = (torch.tensor([time], dtype=torch.float64) for time in (1e-40, 1e-41))
    assert process.count(x_t, t, s).tolist() == [2]


@every_order
@every_schedule
@pytest.mark.parametrize("many", [False, True])
def test_steps_open_exactly_that_many_masks(
    kind: type[Ordered], schedule: Schedule, many: bool, generator: torch.Generator
) -> None:
    process = kind(5, schedule, mask=2)
    x_t = masked_states(process, T, 4)
    logits = torch.randn(*x_t.shape, 5, generator=generator)
    log_p_0 = process.carry_over(process.restrict(logits).log_softmax(-1), x_t)
    shape = (7, *x_t.shape) if many else x_t.shape
    noise = process.step_noise(shape, generator=generator, device=x_t.device)
    x_s = process.step_by(noise, log_p_0, x_t, T, S)
    assert x_s.shape == shape
    opened = process.active(x_t) & (x_s != process.mask)
    assert torch.equal(opened.sum(-1), process.count(x_t, T, S).expand(shape[:-1]))
    assert torch.equal(x_s.where(~process.active(x_t), 0), x_t.expand(shape).where(x_t != 2, 0))


@every_order
def test_n_steps_from_one_state_are_n_steps_one_by_one(
    kind: type[Ordered], generator: torch.Generator
) -> None:
    process = kind(5)
    x_t = masked_states(process, T, 4)
    log_p_0 = torch.randn(*x_t.shape, 5, generator=generator).log_softmax(-1)
    noise = process.step_noise((6, *x_t.shape), generator=generator, device=x_t.device)
    many = process.step_by(noise, log_p_0, x_t, T, S)
    for n, x_s in enumerate(many):
        assert torch.equal(process.step_by(noise[:, n], log_p_0, x_t, T, S), x_s)


# Order


def ranked_law(log_p: Tensor, temperature: float, count: int) -> Tensor:
    """The law of x_s over states(S + 1, D) from all masked, log_p (D, S), over all orders."""
    d, size = log_p.shape
    law = torch.zeros((size + 1) ** d, dtype=torch.float64)
    for x, p in zip(states(size, d), product_law(log_p), strict=True):
        # log p + temperature * Gumbel: without replacement, by weights p^(1 / temperature).
        weight = (log_p.gather(-1, x[:, None])[:, 0] / temperature).exp()
        for order in permutations(range(d), count):
            chance, rest = p, weight.sum()
            for place in order:
                chance, rest = chance * weight[place] / rest, rest - weight[place]
            opened = torch.full((d,), size)
            opened[list(order)] = x[list(order)]
            law[rank(opened, size + 1)] += chance
    return law


@pytest.mark.parametrize("temperature", [0.5, 4.5])
@pytest.mark.parametrize(("s", "count"), [(2 / 3, 1), (1 / 3, 2)])
def test_steps_follow_the_law_of_ranked_gumbels(
    temperature: float, s: float, count: int, generator: torch.Generator
) -> None:
    process = Confidence(2, LogLinear(), temperature=temperature)
    log_p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], dtype=torch.float64).log()
    n = 40_000
    x_t, t = torch.full((n, 3), process.mask), torch.ones(n, dtype=torch.float64)
    x_s = process.step(log_p.expand(n, -1, -1), x_t, t, t * s, generator=generator)
    now = float(process.temperature_at(t[:1], t[:1] * s))
    assert now == pytest.approx(temperature)
    assert_drawn_from(rank(x_s, 3), ranked_law(log_p, now, count))


def test_without_temperature_the_likeliest_tokens_open(generator: torch.Generator) -> None:
    process = Confidence(2, LogLinear(), temperature=0)
    log_p = torch.tensor([[0.7, 0.3], [1.0, 1e-9], [0.99, 0.01]], dtype=torch.float64).log()
    x_t, t = torch.full((500, 3), process.mask), torch.ones(500, dtype=torch.float64)
    x_s = process.step(log_p.expand(500, -1, -1), x_t, t, t / 3 * 2, generator=generator)
    assert (x_s[:, 1] == 0).all()
    assert (x_s[:, [0, 2]] == process.mask).all()


@pytest.mark.parametrize("steps", [2, 3, 8, 12, 50])
def test_the_temperature_falls_as_in_the_hosts(steps: int) -> None:
    """Their factor 1 - i / (n - 1) at index i of n steps."""
    grid = time_grid(steps)
    found = Confidence(3, temperature=2.0).temperature_at(grid[:-1], grid[1:])
    want = 2 * (1 - torch.arange(steps) / (steps - 1)).double()
    torch.testing.assert_close(found, want, atol=1e-7, rtol=0)


def test_the_temperature_is_never_negative_nor_above_the_first(generator: torch.Generator) -> None:
    t = torch.rand(5000, generator=generator, dtype=torch.float64)
    s = t * torch.rand(5000, generator=generator, dtype=torch.float64)
    t[:50], s[50:100] = 1, 0
    found = Confidence(3).temperature_at(t, s)
    assert found.isfinite().all()
    assert ((found >= 0) & (found <= 4.5 + 1e-12)).all()


def test_noise_at_its_ends_and_certain_predictions_stay_finite() -> None:
    """An open token is never the most confident, however unsure the masks are."""
    process = Confidence(3, mask=2)
    x_t = torch.tensor([[0, 2, 2, 1]])
    log_p_0 = torch.full((1, 4, 3), LOG_ZERO)
    log_p_0[..., 0] = 0
    log_p_0 = process.carry_over(log_p_0, x_t)
    t, s = torch.ones(1).double(), torch.full((1,), 0.99, dtype=torch.float64)
    for u in (0.0, 1 - 2**-53):
        noise = torch.full((2, 1, 4), u, dtype=torch.float64)
        x_s = process.step_by(noise, log_p_0, x_t, t, s)
        assert x_s.tolist() == [[0, 0, 2, 1]]


# The rest of the contract


def test_the_forward_process_is_that_of_masked_diffusion(generator: torch.Generator) -> None:
    one, other = Absorbing(3, Arccos()), Confidence(3)
    assert torch.equal(one.transition(S, T), other.transition(S, T))
    assert (one.factorised, other.factorised) == (True, False)
    x_0 = torch.zeros(6, 50, dtype=torch.int64)
    state = generator.get_state()
    x_t = one.corrupt(x_0, T, generator=generator)
    generator.set_state(state)
    assert torch.equal(other.corrupt(x_0, T, generator=generator), x_t)


@every_order
def test_there_is_no_posterior(kind: type[Ordered]) -> None:
    x_t = torch.full((6, 4), 3)
    with pytest.raises(UserError, match=f"process '{kind.__name__.lower()}' .* partial=false"):
        kind(3).log_posterior(torch.zeros(6, 4, 3), x_t, T, S)


@pytest.mark.parametrize("temperature", [0, 7.5])
@pytest.mark.parametrize("mask", [None, 2])
def test_the_config_rebuilds_it(temperature: float, mask: int | None) -> None:
    process = Confidence(5, Root(), mask=mask, temperature=temperature)
    again = build_process(process.config)
    assert isinstance(again, Confidence)
    assert again.config == process.config
    assert (again.temperature, again.mask) == (temperature, process.mask)
    assert again.schedule == Root()


def test_maskgits_schedule_is_the_default() -> None:
    for process in (Confidence(5), build_process({"name": "confidence", "num_tokens": 5})):
        assert process.config == {
            "name": "confidence",
            "num_tokens": 5,
            "schedule": "arccos",
            "temperature": 4.5,
        }


def test_negative_temperatures_are_refused() -> None:
    with pytest.raises(UserError, match="temperature must be at least 0, not -1"):
        Confidence(3, temperature=-1)
