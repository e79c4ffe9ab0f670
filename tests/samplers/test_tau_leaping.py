"""Leaps against exact laws: data on three levels and two positions, and p_{0|t} by Bayes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, DiscretisedGaussian, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import Step, tau_leaping
from di4c_plugin.samplers.tau_leaping import forward_rates, leap, reverse_rates
from tests.enumeration import TableDenoiser, assert_drawn_from, rank, states, total_variation

S, D = 3, 2
PROCESS = DiscretisedGaussian(S, rate_sigma=1.5, q_sigma=2.0, time_base=0.02)
DATA = torch.tensor([0.3, 0.02, 0.03, 0.05, 0.2, 0.05, 0.1, 0.05, 0.2], dtype=torch.float64)
X = states(S, D)


def joint(t: float) -> Tensor:
    """p(x_0, x_t) over all pairs of states, (S^D, S^D)."""
    time = torch.tensor([t], dtype=torch.float64)
    q = PROCESS.transition(torch.zeros_like(time), time)[0]
    kernel = torch.stack([q[X[:, None, d], X[None, :, d]] for d in range(D)]).prod(0)
    return DATA[:, None] * kernel


class Bayes:
    """The exact p_{0|t}, position by position."""

    latent_shape = None

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.times.append(float(t[0]))
        p = joint(float(t[0]))[:, rank(x_t, S)]
        by_token = torch.stack(
            [torch.stack([p[X[:, d] == s].sum(0) for s in range(S)], -1) for d in range(D)], 1
        )
        return (by_token / by_token.sum(-1, keepdim=True)).log()


def start(n: int, t: float = 1.0, seed: int = 0) -> tuple[Tensor, torch.Generator]:
    """Draws from q_t."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.multinomial(joint(t).sum(0), n, replacement=True, generator=generator)
    return X[index], generator


def sample(steps: int, n: int = 30_000, **options: Any) -> Tensor:
    x, generator = start(n)
    options = {"last": "draw"} | options
    return tau_leaping(
        Bayes(), x, time_grid(steps), process=PROCESS, generator=generator, **options
    )


def distance(x: Tensor) -> float:
    """Total variation to the data."""
    return float(total_variation(torch.bincount(rank(x, S), minlength=S**D) / len(x), DATA))


# Rates


@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_reverse_rates_are_those_of_the_reversed_chain(t: float) -> None:
    """R(y, x) q_t(y) / q_t(x) for states that differ in one position."""
    times = torch.full((len(X),), t, dtype=torch.float64)
    rates = reverse_rates(PROCESS, Bayes()(X, times), X, times)
    q_t = joint(t).sum(0)
    for row, x in enumerate(X):
        for d in range(D):
            for y in range(S):
                other = x.clone()
                other[d] = y
                want = PROCESS.rate[y, x[d]] * q_t[rank(other, S)] / q_t[row]
                want = want if y != x[d] else torch.zeros(()).double()
                torch.testing.assert_close(rates[row, d, y], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("t", [0.05, 1.0])
def test_forward_and_reverse_rates_together_leave_q_t_as_it_is(t: float) -> None:
    times = torch.full((len(X),), t, dtype=torch.float64)
    both = reverse_rates(PROCESS, Bayes()(X, times), X, times) + forward_rates(PROCESS, X)
    generator = torch.zeros(len(X), len(X), dtype=torch.float64)
    for row, x in enumerate(X):
        for d in range(D):
            for y in range(S):
                other = x.clone()
                other[d] = y
                generator[row, rank(other, S)] += both[row, d, y]
    generator -= torch.diag(generator.sum(1))
    flow = joint(t).sum(0) @ generator
    torch.testing.assert_close(flow, torch.zeros_like(flow), atol=1e-12, rtol=0)


def test_rates_stay_finite_where_a_network_contradicts_the_process() -> None:
    process = DiscretisedGaussian(256)
    x, t = torch.tensor([[0, 255, 128]]), torch.full((1,), 0.01, dtype=torch.float64)
    log_p_0 = torch.zeros(1, 3, 256).log_softmax(-1)
    rates = reverse_rates(process, log_p_0, x, t)
    assert rates.isfinite().all()
    assert (rates >= 0).all()
    x = leap(x, torch.ones(1).double(), rates, torch.Generator().manual_seed(0))
    assert ((x >= 0) & (x < 256)).all()


def test_a_leap_adds_poisson_numbers_of_jumps_and_clamps() -> None:
    """From the middle of three levels: up minus down is the difference of two Poissons."""
    n, up, down, length = 40_000, 0.7, 1.1, 0.5
    rates = torch.tensor([down, 0.0, up], dtype=torch.float64).expand(n, 1, 3)
    x = torch.ones(n, 1, dtype=torch.int64)
    found = leap(x, torch.full((n,), length).double(), rates, torch.Generator().manual_seed(0))
    k = torch.arange(30, dtype=torch.float64)
    means = torch.tensor([up * length, down * length], dtype=torch.float64)
    poisson = (k * means[:, None].log() - means[:, None] - torch.lgamma(k + 1)).exp()
    table = poisson[0][:, None] * poisson[1][None]
    law = torch.stack([table.triu(1).sum(), table.diagonal().sum(), table.tril(-1).sum()])
    assert_drawn_from(found, law)


# The sampler


@pytest.mark.slow
def test_more_steps_come_closer_to_the_data() -> None:
    """TV to the data: the noise of 30000 draws of 9 states is about 0.006."""
    few, some, many = (distance(sample(steps)) for steps in (3, 10, 80))
    assert few > 0.06
    assert few > some > many
    assert many < 0.02


@pytest.mark.slow
def test_correctors_bring_few_steps_closer() -> None:
    plain = distance(sample(10))
    options: dict[str, Any] = {"corrector_size": 0.3, "corrector_entry": 1.0}
    corrected = distance(sample(10, corrector_steps=10, **options))
    assert corrected < 0.6 * plain


def test_the_last_step_is_the_argmax_at_the_end_of_the_leaps() -> None:
    x, generator = start(500)
    one = tau_leaping(Bayes(), x, time_grid(4), process=PROCESS, generator=generator, min_time=0.3)
    x, generator = start(500)
    times = torch.tensor([1.0, 0.3 + 0.7 * 2 / 3, 0.3 + 0.7 / 3, 0.3], dtype=torch.float64)
    x = tau_leaping(Bayes(), x, times, process=PROCESS, generator=generator)
    t = torch.full((500,), 0.3, dtype=torch.float64)
    assert torch.equal(one, Bayes()(x, t).argmax(-1))


def test_one_step_is_a_draw_from_the_prediction() -> None:
    x, generator = start(30_000)
    found = tau_leaping(Bayes(), x, time_grid(1), process=PROCESS, generator=generator, last="draw")
    p = Bayes()(X, torch.ones(len(X)).double()).exp()
    law = joint(1.0).sum(0) @ (p[:, 0, :, None] * p[:, 1, None, :]).flatten(1)
    assert_drawn_from(rank(found, S), law)


@pytest.mark.parametrize("correctors", [0, 2])
def test_calls_are_made_where_the_grid_says(correctors: int) -> None:
    model = Bayes()
    steps: list[Step] = []
    x, generator = start(20)
    tau_leaping(
        model,
        x,
        time_grid(3),
        process=PROCESS,
        generator=generator,
        min_time=0.2,
        corrector_steps=correctors,
        corrector_entry=0.7,
        callback=steps.append,
    )
    assert model.times == pytest.approx([1.0, 0.6, *[0.2] * correctors, 0.2])
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.s for step in steps] == pytest.approx([0.6, 0.2, 0])
    assert all(step.x.shape == (20, D) for step in steps)


@pytest.mark.parametrize(("latents", "different"), [("fresh", 6), ("fixed", 2)])
def test_each_call_of_a_student_has_its_own_fresh_lambda(latents: str, different: int) -> None:
    seen: list[Tensor | None] = []

    class Spy(TableDenoiser):
        def __call__(self, *args: Any, **options: Any) -> Tensor:
            seen.append(options["latent"])
            return super().__call__(*args, **options)

    x, generator = start(40)
    student = Spy(PROCESS, D, 2)
    options: dict[str, Any] = {"corrector_steps": 1, "corrector_entry": 1.0, "last_latents": 2}
    options["latents"] = latents
    found = tau_leaping(student, x, time_grid(3), process=PROCESS, generator=generator, **options)
    drawn = [latent for latent in seen if latent is not None]
    assert len(drawn) == 2 * 2 + 2
    assert torch.cat(drawn).unique().numel() == different * 40
    assert ((found >= 0) & (found < S)).all()


def test_equal_seeds_agree() -> None:
    assert torch.equal(sample(4, n=200), sample(4, n=200))


def test_grids_are_walked_pairwise_to_an_end_above_0() -> None:
    x, generator = start(20)
    times = time_grid(2, 0.5)
    model = Bayes()
    tau_leaping(model, x, times, process=PROCESS, generator=generator)
    assert model.times == [t for t, _ in pairwise(times.tolist())]


def test_mistakes_are_told() -> None:
    for process in (Absorbing(S), Uniform(S)):
        with pytest.raises(UserError, match="with rates, such as gaussian, not '"):
            tau_leaping(Bayes(), X, time_grid(2), process=process, generator=torch.Generator())
    with pytest.raises(UserError, match="corrector_steps must be at least 0"):
        sample(2, n=2, corrector_steps=-1)
    with pytest.raises(UserError, match="unknown last step"):
        sample(2, n=2, last="leap")
    with pytest.raises(UserError, match="min_time"):
        sample(2, n=2, min_time=1.5)
