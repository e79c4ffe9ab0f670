"""Samples against the exact law of the chain, over all states of two positions."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Absorbing, Arccos, Process, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import Step, ancestral
from tests.enumeration import TableDenoiser, assert_drawn_from, rank, states, total_variation

D, N = 2, 3
every_process = pytest.mark.parametrize(
    "process",
    [Absorbing(2), Absorbing(2, Arccos()), Uniform(3)],
    ids=["linear", "arccos", "uniform"],
)


def prior_law(process: Process) -> Tensor:
    """Over the states of D positions: all masked, or uniform."""
    x = states(process.num_states, D)
    if isinstance(process, Absorbing):
        return (x == process.mask).all(-1).double()
    return torch.full((len(x),), 1 / len(x), dtype=torch.float64)


def kernels(denoiser: TableDenoiser, steps: int) -> list[Tensor]:
    """One (N, M, M) for each step of the even grid."""
    times = time_grid(steps).tolist()
    return [denoiser.kernels(t, s) for t, s in pairwise(times)]


def fresh_law(denoiser: TableDenoiser, steps: int) -> Tensor:
    """Another lambda at every step: mixtures follow each other."""
    law = prior_law(denoiser.process)
    for kernel in kernels(denoiser, steps):
        law = law @ kernel.mean(0)
    return law


def fixed_law(denoiser: TableDenoiser, steps: int) -> Tensor:
    """One lambda all the way: a mixture of chains."""
    laws = prior_law(denoiser.process).expand(denoiser.components, 1, -1)
    for kernel in kernels(denoiser, steps):
        laws = laws @ kernel
    return laws.mean(0)[0]


def sample(
    denoiser: Any, process: Process, *, steps: int, n: int = 30_000, **options: Any
) -> Tensor:
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    x = process.prior((n, D), generator=generator, device=torch.device("cpu"))
    times = time_grid(steps)
    return ancestral(denoiser, x, times, process=process, generator=generator, **options)


@every_process
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_teacher_samples_follow_the_chain(process: Process, steps: int) -> None:
    teacher = TableDenoiser(process, D)
    x = sample(teacher, process, steps=steps)
    assert_drawn_from(rank(x, process.num_states), fresh_law(teacher, steps))


@every_process
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("latents", ["fresh", "stratified"])
def test_student_samples_follow_the_mixtures(process: Process, steps: int, latents: str) -> None:
    student = TableDenoiser(process, D, N)
    x = sample(student, process, steps=steps, latents=latents)
    assert_drawn_from(rank(x, process.num_states), fresh_law(student, steps))


@every_process
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_fixed_lambda_follows_the_mixture_of_chains(process: Process, steps: int) -> None:
    student = TableDenoiser(process, D, N)
    x = sample(student, process, steps=steps, latents="fixed")
    assert_drawn_from(rank(x, process.num_states), fixed_law(student, steps))


@every_process
def test_fixed_and_fresh_differ_from_the_second_step_on(process: Process) -> None:
    student = TableDenoiser(process, D, N)
    assert total_variation(fresh_law(student, 1), fixed_law(student, 1)) < 1e-12
    assert total_variation(fresh_law(student, 2), fixed_law(student, 2)) > 0.01


def test_a_grid_may_end_before_the_data() -> None:
    process = Absorbing(2)
    teacher = TableDenoiser(process, D)
    generator = torch.Generator().manual_seed(0)
    x = process.prior((30_000, D), generator=generator, device=torch.device("cpu"))
    times = time_grid(1, t_min=0.5)
    x = ancestral(teacher, x, times, process=process, generator=generator)
    assert_drawn_from(rank(x, 3), prior_law(process) @ teacher.kernels(1.0, 0.5)[0])


class Recorder(TableDenoiser):
    """A student that keeps the lambdas, times and labels it is given."""

    def __init__(self, process: Process) -> None:
        super().__init__(process, D, N)
        self.seen: list[tuple[Tensor, Tensor | None, Tensor | None]] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.seen.append((t, cond, latent))
        return super().__call__(x_t, t, cond=cond, latent=latent)

    @property
    def latents(self) -> Tensor:
        """One row for each call."""
        return torch.stack([latent for _, _, latent in self.seen if latent is not None])[..., 0]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(Absorbing(2))


def test_each_sample_and_step_has_its_own_fresh_lambda(recorder: Recorder) -> None:
    sample(recorder, recorder.process, steps=3, n=50, latents="fresh")
    assert recorder.latents.shape == (3, 50)
    assert recorder.latents.unique().numel() == 150
    assert (recorder.latents * 50).long().unique().numel() < 50, "independent, not stratified"


@pytest.mark.parametrize("options", [{}, {"latents": "fixed"}])
def test_a_fixed_lambda_is_kept_for_each_sample(
    options: dict[str, Any], recorder: Recorder
) -> None:
    sample(recorder, recorder.process, steps=3, n=50, **options)
    assert (recorder.latents == recorder.latents[0]).all()
    assert recorder.latents.unique().numel() == 50


def test_stratified_lambdas_are_spread_over_the_batch(recorder: Recorder) -> None:
    sample(recorder, recorder.process, steps=3, n=50, latents="stratified")
    strata = (recorder.latents * 50).long()
    assert torch.equal(strata.sort(1).values, torch.arange(50).expand(3, -1))
    assert not torch.equal(strata[0], strata[1])


def test_one_network_call_a_step_at_the_times_of_the_grid(recorder: Recorder) -> None:
    labels = torch.arange(4)
    sample(recorder, recorder.process, steps=4, n=4, cond=labels)
    times = torch.stack([t for t, _, _ in recorder.seen])
    assert times.dtype == torch.float64
    assert torch.equal(times, time_grid(4)[:-1, None].expand(-1, 4))
    assert all(cond is labels for _, cond, _ in recorder.seen)


@pytest.mark.parametrize("latents", ["fresh", "fixed", "stratified"])
def test_equal_seeds_agree_bit_for_bit(latents: str, recorder: Recorder) -> None:
    options = {"steps": 3, "n": 500, "latents": latents}
    one, two, other = (
        sample(recorder, recorder.process, seed=seed, **options)  # type: ignore[arg-type]
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_draws_come_from_the_given_generator_only(recorder: Recorder) -> None:
    state = torch.get_rng_state()
    sample(recorder, recorder.process, steps=3, n=50)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_callback_sees_every_step() -> None:
    process = Absorbing(2)
    steps: list[Step] = []
    x = sample(TableDenoiser(process, D), process, steps=4, n=20, callback=steps.append)
    assert [(step.index, step.t, step.s) for step in steps] == [
        (0, 1, 0.75),
        (1, 0.75, 0.5),
        (2, 0.5, 0.25),
        (3, 0.25, 0),
    ]
    assert all(step.x.shape == (20, D) for step in steps)
    assert torch.equal(steps[-1].x, x)
    masked = [int((step.x == process.mask).sum()) for step in steps]
    assert masked == sorted(masked, reverse=True)
    assert masked[-1] == 0


class Noisy(nn.Module):
    """A network with dropout, and a part that is frozen in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(D, 2))
        self.train()
        self.frozen.eval()
        self.modes: list[bool] = []

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.modes += [self.dropout.training, torch.is_grad_enabled()]
        return self.dropout(self.weight).expand(len(x_t), -1, -1).log_softmax(-1)


def test_samplers_switch_dropout_and_gradients_off() -> None:
    network = Noisy()
    sample(network, Absorbing(2), steps=2, n=4)
    assert not any(network.modes)


def test_training_mode_comes_back_part_by_part() -> None:
    network = Noisy()
    sample(network, Absorbing(2), steps=1, n=4)
    assert network.training
    assert network.dropout.training
    assert not network.frozen.training
    assert torch.is_grad_enabled()


def test_eval_mode_stays() -> None:
    network = Noisy().eval()
    sample(network, Absorbing(2), steps=1, n=4)
    assert not network.training


def test_training_mode_comes_back_after_an_error() -> None:
    network = Noisy()

    def stop(step: Step) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(network, Absorbing(2), steps=2, n=4, callback=stop)
    assert network.training
    assert torch.is_grad_enabled()


def test_unknown_latent_policies_are_refused(recorder: Recorder) -> None:
    with pytest.raises(UserError, match="'sticky'; there are fixed, fresh, stratified"):
        sample(recorder, recorder.process, steps=1, latents="sticky")
