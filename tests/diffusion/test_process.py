"""What every process owes, given its transition matrices; those are checked process by process."""

from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import (
    LOG_ZERO,
    Absorbing,
    Arccos,
    Cosine,
    DiscretisedGaussian,
    DuoCosine,
    LogLinear,
    MatrixProcess,
    Process,
    Uniform,
    build_process,
)
from di4c_plugin.errors import UserError
from tests.enumeration import assert_drawn_from

# Per-example times, with both ends and a long and a short step.
T = torch.tensor([1.0, 1.0, 0.7, 0.31, 0.02], dtype=torch.float64)
S = torch.tensor([0.0, 0.6, 0.0, 0.3, 0.01], dtype=torch.float64)

PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(4),
    "absorbing-mdlm": Absorbing(4, LogLinear(eps=1e-3)),
    "absorbing-cosine": Absorbing(4, Cosine()),
    "absorbing-arccos": Absorbing(4, Arccos()),
    "absorbing-token": Absorbing(4, LogLinear(eps=1e-3), mask=3),
    "absorbing-token-duo": Absorbing(4, DuoCosine(), mask=1),
    "uniform": Uniform(4),
    "uniform-cosine": Uniform(4, Cosine()),
    "gaussian": DiscretisedGaussian(5, rate_sigma=1.5, q_sigma=2.0, time_base=0.05),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


class Dense(MatrixProcess):
    """Another process by its matrices alone, without its closed forms."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.num_tokens, process.num_states)
        self.process = process

    @property
    def config(self) -> dict[str, Any]:
        return self.process.config

    def prior(
        self, shape: tuple[int, int], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        return self.process.prior(shape, generator=generator, device=device)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        return self.process.transition(s, t)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def data_tokens(process: Process) -> Tensor:
    """Without the mask, where it is one of the tokens."""
    tokens = torch.arange(process.num_tokens)
    return tokens[tokens != getattr(process, "mask", -1)]


def some_step(process: Process, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x_t that can occur at T, and a random prediction log p_{0|t} for them."""
    tokens = data_tokens(process)
    x_0 = tokens[torch.randint(len(tokens), (len(T), 40), generator=generator)]
    x_t = process.corrupt(x_0, T, generator=generator)
    logits = torch.randn(*x_t.shape, process.num_tokens, generator=generator, dtype=torch.float64)
    return x_t, process.carry_over(process.restrict(logits).log_softmax(-1), x_t)


def bayes(process: Process, t: Tensor, s: Tensor) -> Tensor:
    """q(x_s | x_t, x_0), indexed [b, x_0, x_s, x_t]; 0 where x_0 cannot lead to x_t."""
    q_s0 = process.transition(torch.zeros_like(s), s)[:, : process.num_tokens]
    joint = q_s0[..., None] * process.transition(s, t)[:, None]
    return (joint / joint.sum(2, keepdim=True)).nan_to_num(0)


@every_process
def test_rows_of_transitions_are_laws(process: Process) -> None:
    q = process.transition(S, T)
    assert q.shape == (len(T), process.num_states, process.num_states)
    assert (q >= 0).all()
    torch.testing.assert_close(q.sum(-1), torch.ones(q.shape[:2], dtype=torch.float64))


@every_process
def test_no_time_no_change(process: Process) -> None:
    identity = torch.eye(process.num_states, dtype=torch.float64).expand(4, -1, -1)
    torch.testing.assert_close(process.transition(T[1:] * 0.9, T[1:] * 0.9), identity)


@every_process
def test_chapman_kolmogorov(process: Process) -> None:
    zero = torch.zeros_like(S)
    direct, by_way_of_s = process.transition(zero, T), process.transition(zero, S)
    torch.testing.assert_close(by_way_of_s @ process.transition(S, T), direct)


@every_process
def test_corrupt_draws_from_the_transition(process: Process, generator: torch.Generator) -> None:
    x_0 = torch.arange(process.num_tokens).repeat(2, 20_000)
    t = torch.tensor([0.4, 0.8], dtype=torch.float64)
    x_t = process.corrupt(x_0, t, generator=generator)
    q = process.transition(torch.zeros_like(t), t)
    for b, token in torch.cartesian_prod(torch.arange(2), torch.arange(process.num_tokens)):
        assert_drawn_from(x_t[b][x_0[b] == token], q[b, token])


@every_process
def test_corrupt_at_time_0_changes_nothing(process: Process, generator: torch.Generator) -> None:
    x_0 = torch.randint(process.num_tokens, (2, 1000), generator=generator)
    assert torch.equal(process.corrupt(x_0, torch.zeros(2), generator=generator), x_0)


@every_process
def test_posterior_is_the_sum_over_x_0(process: Process, generator: torch.Generator) -> None:
    x_t, log_p_0 = some_step(process, generator)
    q = bayes(process, T, S)
    p_s = torch.stack(
        [
            torch.einsum("do,ods->ds", log_p_0[b].exp(), q[b][:, :, x_t[b]].transpose(1, 2))
            for b in range(len(T))
        ]
    )
    torch.testing.assert_close(process.log_posterior(log_p_0, x_t, T, S).exp(), p_s)


@every_process
def test_posterior_of_a_point_mass_is_bayes(process: Process, generator: torch.Generator) -> None:
    x_0 = data_tokens(process).repeat(len(T), 10)
    x_t = process.corrupt(x_0, T, generator=generator)
    log_p_0 = torch.full((*x_0.shape, process.num_tokens), LOG_ZERO, dtype=torch.float64)
    log_p_0.scatter_(-1, x_0[..., None], 0)
    q = bayes(process, T, S)
    want = torch.stack([q[b, x_0[b], :, x_t[b]] for b in range(len(T))])
    torch.testing.assert_close(process.log_posterior(log_p_0, x_t, T, S).exp(), want)


@every_process
def test_a_step_to_0_draws_from_the_prediction(
    process: Process, generator: torch.Generator
) -> None:
    x_t, log_p_0 = some_step(process, generator)
    posterior = process.log_posterior(log_p_0, x_t, T, torch.zeros_like(T)).exp()
    torch.testing.assert_close(posterior[..., : process.num_tokens], log_p_0.exp())


@pytest.mark.parametrize("name", ["absorbing", "absorbing-arccos", "uniform", "uniform-cosine"])
def test_closed_forms_agree_with_matrices(name: str, generator: torch.Generator) -> None:
    process = PROCESSES[name]
    x_t, log_p_0 = some_step(process, generator)
    dense = Dense(process).log_posterior(log_p_0, x_t, T, S)
    torch.testing.assert_close(process.log_posterior(log_p_0, x_t, T, S).exp(), dense.exp())


@every_process
def test_step_draws_from_the_posterior(process: Process, generator: torch.Generator) -> None:
    x_t, log_p_0 = some_step(process, generator)
    posterior = process.log_posterior(log_p_0, x_t, T, S).exp()
    draws = 3000
    x_s = process.step(
        log_p_0.repeat(draws, 1, 1),
        x_t.repeat(draws, 1),
        T.repeat(draws),
        S.repeat(draws),
        generator=generator,
    ).unflatten(0, (draws, -1))
    # All cells of all examples and positions at once: counts against their expectation.
    counts = torch.nn.functional.one_hot(x_s, process.num_states).sum(0)
    assert (counts[posterior < 1e-12] == 0).all()
    deviation = (counts - draws * posterior) / (draws * posterior * (1 - posterior)).sqrt()
    usual = (posterior > 0.01) & (posterior < 0.99)
    assert deviation[usual].abs().max() < 4.5
    assert deviation[usual].pow(2).mean() == pytest.approx(1, abs=0.2)


@every_process
def test_a_step_is_decided_by_its_noise(process: Process, generator: torch.Generator) -> None:
    """Equal generators, equal steps; and n steps from one state are n steps one by one."""
    x_t, log_p_0 = some_step(process, generator)
    cpu = torch.device("cpu")
    noise = process.step_noise((6, *x_t.shape), generator=generator, device=cpu)
    assert noise.shape == (process.noises, 6, *x_t.shape)
    assert noise.dtype == torch.float64
    many = process.step_by(noise, log_p_0, x_t, T, S)
    assert many.shape == (6, *x_t.shape)
    for n, x_s in enumerate(many):
        assert torch.equal(process.step_by(noise[:, n], log_p_0, x_t, T, S), x_s)
    state = generator.get_state()
    own = process.step_noise(x_t.shape, generator=generator, device=cpu)
    generator.set_state(state)
    assert torch.equal(
        process.step(log_p_0, x_t, T, S, generator=generator),
        process.step_by(own, log_p_0, x_t, T, S),
    )


@every_process
def test_many_steps_from_one_state_draw_from_the_posterior(
    process: Process, generator: torch.Generator
) -> None:
    x_t, log_p_0 = some_step(process, generator)
    x_t, log_p_0 = x_t[:, :2], log_p_0[:, :2]
    noise = process.step_noise((4000, *x_t.shape), generator=generator, device=x_t.device)
    x_s = process.step_by(noise, log_p_0, x_t, T, S)
    counts = torch.nn.functional.one_hot(x_s, process.num_states).sum(0)
    posterior = process.log_posterior(log_p_0, x_t, T, S).exp()
    assert (counts[posterior < 1e-12] == 0).all()
    spread = (4000 * posterior * (1 - posterior)).sqrt()
    usual = (posterior > 0.01) & (posterior < 0.99)
    assert ((counts - 4000 * posterior) / spread)[usual].abs().max() < 4.5
    # Independent of each other: the same state twice in a row as often as by chance.
    again = (x_s[1:] == x_s[:-1]).double().mean(0)
    chance = posterior.square().sum(-1)
    # Neighbouring pairs share a draw: the variance of the mean is at most three times a coin's.
    assert ((again - chance).abs() < 4.5 * (3 * 0.25 / 4000) ** 0.5).all()


@every_process
def test_carry_over_is_certain_where_nothing_is_open(
    process: Process, generator: torch.Generator
) -> None:
    """Value and gradient; what is handed in stays as it was."""
    x_t = torch.arange(process.num_states).repeat(2, 3)
    active = process.active(x_t)
    shape = (*x_t.shape, process.num_tokens)
    log_p = torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_p.requires_grad_()
    kept, pull = log_p.detach().clone(), torch.randn(shape, generator=generator).double()
    found = process.carry_over(log_p * 1, x_t)
    assert torch.equal(found[active], log_p[active])
    for row, x in zip(found[~active], x_t[~active].tolist(), strict=True):
        assert row.argmax() == x
        assert row[x] == 0
        assert (row < LOG_ZERO / 2).sum() == process.num_tokens - 1
    assert found.isfinite().all()
    (grad,) = torch.autograd.grad((found * pull).sum(), log_p)
    assert torch.equal(grad, pull.where(active.unsqueeze(-1), 0))
    process.carry_over(log_p, x_t)
    assert torch.equal(log_p, kept)


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posteriors_and_gradients_are_finite(process: Process, dtype: torch.dtype) -> None:
    """For every x_t, with predictions from vague to certain, at all times."""
    x_t = torch.arange(process.num_states).expand(len(T), -1)
    shape = (*x_t.shape, process.num_tokens)
    for certainty in (0.0, 1.0, 100.0, -LOG_ZERO):
        logits = torch.zeros(shape, dtype=dtype)
        logits[..., 0] = certainty
        logits.requires_grad_()
        log_p_0 = process.carry_over(process.restrict(logits).log_softmax(-1), x_t)
        log_p_s = process.log_posterior(log_p_0, x_t, T, S)
        (log_p_s.exp() * log_p_s).sum().backward()
        assert log_p_s.dtype == dtype
        assert log_p_s.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        torch.testing.assert_close(log_p_s.exp().sum(-1), torch.ones(x_t.shape, dtype=dtype))


@every_process
def test_only_the_mask_leaves_a_position_open(process: Process) -> None:
    x_t = torch.arange(process.num_states)[None]
    mask = process.mask if isinstance(process, Absorbing) else None
    assert process.active(x_t).tolist() == [[mask is None or x == mask for x in x_t[0]]]


@every_process
def test_prior_is_where_the_process_ends(process: Process, generator: torch.Generator) -> None:
    x_1 = process.prior((500, 100), generator=generator, device=torch.device("cpu"))
    assert x_1.dtype == torch.int64
    assert x_1.shape == (500, 100)
    end = process.transition(torch.zeros(1), torch.ones(1))[0, 0]
    frequencies = torch.bincount(x_1.flatten(), minlength=process.num_states) / x_1.numel()
    torch.testing.assert_close(frequencies.double(), end, atol=0.01, rtol=0)


@every_process
def test_config_rebuilds_the_process(process: Process) -> None:
    again = build_process(process.config)
    assert type(again) is type(process)
    assert again.config == process.config
    assert torch.equal(again.transition(S, T), process.transition(S, T))


def test_unknown_processes_and_schedules_are_named() -> None:
    with pytest.raises(
        UserError, match="'poisson'; there are absorbing, gaussian, uniform, confidence, halton"
    ):
        build_process({"name": "poisson"})
    with pytest.raises(
        UserError, match="'cubic'; there are arccos, cosine, duo_cosine, loglinear, masked_square"
    ):
        build_process({"name": "absorbing", "num_tokens": 2, "schedule": "cubic"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "uniform", "mask": 2}, "process 'uniform' with schedule 'loglinear': .* 'mask'"),
        ({"name": "gaussian", "mask": 2}, "process 'gaussian': .* 'mask'"),
    ],
)
def test_options_that_it_does_not_take_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}.*; it takes "):
        build_process({"num_tokens": 3} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "absorbing", "schedule": ["x"]}, r"unknown schedule \['x'\]; there are arccos"),
        ({"name": "halton", "randomise": True}, r"'randomise' \(did you mean 'randomize'\?\)"),
        (
            {"name": "halton", "grid": [1.5, 2]},
            r"process 'halton': grid\[0\] must be a whole number",
        ),
        ({"name": "duo_cosine"}, "unknown process 'duo_cosine'"),
        ({"name": {}}, r"unknown process \{\}; there are absorbing"),
        ({"name": "absorbing", "eps": "small"}, "eps must be a number, not 'small'"),
        ({"name": "gaussian", "rate_sigma": float("nan")}, "rate_sigma must be in "),
        ({"name": "gaussian", "q_sigma": 0}, "process 'gaussian'"),
    ],
)
def test_values_of_another_type_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_process({"num_tokens": 3} | options)


def test_missing_options_are_named() -> None:
    with pytest.raises(UserError, match="^process 'halton': missing .* 'num_tokens'; it takes "):
        build_process({"name": "halton"})


@every_process
def test_processes_with_one_forward_config_corrupt_alike(process: Process) -> None:
    again = build_process(process.forward)
    assert again.forward == process.forward
    assert torch.equal(again.transition(S, T), process.transition(S, T))
    if isinstance(process, Absorbing):
        assert again.config["name"] == "absorbing"
