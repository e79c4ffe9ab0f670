"""Bridges q(x_s | x_t, x_0) and steps with their x_0, against transition matrices.

A law is found by a grid of the noise that decides it: an outcome that k intervals of [0, 1) lead to
has its probability to within k over the size of the grid.
"""

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import (
    LOG_ZERO,
    Absorbing,
    Arccos,
    Confidence,
    DiscretisedGaussian,
    DuoCosine,
    Halton,
    LogLinear,
    Process,
    Uniform,
)
from di4c_plugin.diffusion.process import per_position

# Per-example times, with both ends and a long and a short step.
T = torch.tensor([1.0, 1.0, 0.7, 0.31, 0.02], dtype=torch.float64)
S = torch.tensor([0.0, 0.6, 0.0, 0.3, 0.01], dtype=torch.float64)
GRID = 1 << 13
# x_s is x_t, x_0, or any token: three intervals, and one for the rounding of the ends.
WITHIN = 4 / GRID

PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(3),
    "absorbing-mdlm": Absorbing(3, LogLinear(eps=1e-3)),
    "absorbing-token": Absorbing(4, Arccos(), mask=1),
    "uniform": Uniform(4),
    "uniform-duo": Uniform(3, DuoCosine(), leave_one_out=True),
    "gaussian": DiscretisedGaussian(4, rate_sigma=1.5, q_sigma=2.0, time_base=0.05),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def grid() -> Tensor:
    """The middles of equal parts of [0, 1)."""
    return (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID


def frequencies(x: Tensor, size: int) -> Tensor:
    """How often each state is there along the first axis, (n, ...) to (..., size)."""
    return torch.stack([(x == state).double().mean(0) for state in range(size)], -1)


def pairs(process: Process) -> tuple[Tensor, Tensor]:
    """Every x_0 with every x_t, each (B, D)."""
    tokens = torch.arange(process.num_tokens)
    tokens = tokens[tokens != getattr(process, "mask", -1)]
    x_0, x_t = torch.cartesian_prod(tokens, torch.arange(process.num_states)).unbind(-1)
    return x_0.expand(len(T), -1), x_t.expand(len(T), -1)


def bridge_law(process: Process) -> Tensor:
    """q(x_s | x_t, x_0) as `bridge` draws, for `pairs`: (B, D, num_states)."""
    x_0, x_t = pairs(process)
    noise = grid().view(-1, 1, 1).expand(-1, *x_0.shape)
    return frequencies(process.bridge(noise, x_0, x_t, T, S), process.num_states)


def entries(matrix: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """matrix[b, row[b, d], column[b, d]]."""
    return matrix[torch.arange(len(T)).unsqueeze(-1), row, column]


@every_process
def test_the_bridge_is_bayes(process: Process) -> None:
    x_0, x_t = pairs(process)
    zero = torch.zeros_like(T)
    q_s0 = process.transition(zero, S)[torch.arange(len(T)).unsqueeze(-1), x_0]
    q_ts = process.transition(S, T).transpose(1, 2)[torch.arange(len(T)).unsqueeze(-1), x_t]
    joint = q_s0 * q_ts
    possible = joint.sum(-1) > 0
    want = joint / joint.sum(-1, keepdim=True)
    law = bridge_law(process)
    assert ((law - want)[possible].abs() <= WITHIN).all()
    assert (law[possible][want[possible] == 0] == 0).all(), "an impossible state was drawn"
    stays = torch.nn.functional.one_hot(x_t, process.num_states).double()
    assert torch.equal(law[~possible], stays[~possible])


@every_process
def test_noising_and_the_bridge_make_the_earlier_state(process: Process) -> None:
    """sum over x_t of q(x_t | x_0) q(x_s | x_t, x_0) is q(x_s | x_0)."""
    x_0, x_t = pairs(process)
    zero = torch.zeros_like(T)
    q_t0 = entries(process.transition(zero, T), x_0, x_t)
    joint = (q_t0.unsqueeze(-1) * bridge_law(process)).unflatten(1, (-1, process.num_states))
    want = process.transition(zero, S)[:, x_0[0, :: process.num_states]]
    assert ((joint.sum(2) - want).abs() <= WITHIN).all()


@every_process
def test_the_bridge_is_the_posterior_of_a_certain_prediction(process: Process) -> None:
    x_0, x_t = pairs(process)
    possible = entries(process.transition(torch.zeros_like(T), T), x_0, x_t) > 0
    log_p_0 = torch.full((*x_0.shape, process.num_tokens), LOG_ZERO, dtype=torch.float64)
    log_p_0.scatter_(-1, x_0.unsqueeze(-1), 0)
    want = process.log_posterior(log_p_0, x_t, T, S).exp()
    assert ((bridge_law(process) - want)[possible].abs() <= WITHIN).all()


def some_prediction(process: Process) -> tuple[Tensor, Tensor]:
    """Every x_t twice at each time, and a prediction that excludes what x_t excludes."""
    x_t = torch.arange(process.num_states).repeat(len(T), 2)
    shape = (*x_t.shape, process.num_tokens)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = process.with_evidence(process.restrict(logits), x_t, T)
    return x_t, process.carry_over(logits.log_softmax(-1), x_t)


@every_process
def test_a_step_with_its_x_0_is_a_step(process: Process) -> None:
    """Its joint law is p(x_0) q(x_s | x_t, x_0), of which the marginal is the posterior."""
    x_t, log_p_0 = some_prediction(process)
    p = log_p_0.exp()
    total = torch.zeros(*x_t.shape, process.num_states, dtype=torch.float64)
    for token in range(process.num_tokens):
        # The middle of the token's share of [0, 1).
        middle = p[..., :token].sum(-1) + p[..., token] / 2
        noise = torch.stack(
            [grid().view(-1, 1, 1).expand(-1, *x_t.shape), middle.expand(GRID, -1, -1)]
        )
        x_0, x_s = process.draw(noise, log_p_0, x_t, T, S)
        likely = p[..., token] > 1e-12
        assert (x_0[:, likely] == token).all()
        assert torch.equal(x_s, process.bridge(noise[0], x_0, x_t, T, S))
        total += p[..., token, None] * frequencies(x_s, process.num_states)
    want = process.log_posterior(log_p_0, x_t, T, S).exp()
    assert ((total - want).abs() <= WITHIN).all()


@every_process
def test_many_bridges_are_each_its_own(process: Process) -> None:
    """n from one state are n one by one, and no position looks at another's noise."""
    generator = torch.Generator().manual_seed(1)
    x_t, log_p_0 = some_prediction(process)
    noise = torch.rand(2, 6, *x_t.shape, generator=generator, dtype=torch.float64)
    x_0, x_s = process.draw(noise, log_p_0, x_t, T, S)
    assert x_0.dtype == x_s.dtype == torch.int64
    for n in range(6):
        own = process.draw(noise[:, n], log_p_0, x_t, T, S)
        assert torch.equal(own[0], x_0[n])
        assert torch.equal(own[1], x_s[n])
        assert torch.equal(process.bridge(noise[0, n], x_0[n], x_t, T, S), x_s[n])
    shared = process.bridge(noise[0], x_0[0], x_t, T, S)
    assert torch.equal(shared, process.bridge(noise[0], x_0[:1].expand_as(x_0), x_t, T, S))
    other = noise.clone()
    other[..., 0] = torch.rand(other[..., 0].shape, generator=generator, dtype=torch.float64)
    changed = process.draw(other, log_p_0, x_t, T, S)[1] != x_s
    assert not changed[..., 1:].any()
    assert changed[..., 0].any() or not process.active(x_t[:, 0]).any()


@every_process
def test_the_ends_of_the_noise_are_states_that_can_occur(process: Process) -> None:
    x_0, x_t = pairs(process)
    law = bridge_law(process)
    for end in (0.0, 1 - 2**-53):
        noise = torch.full(x_0.shape, end, dtype=torch.float64)
        x_s = process.bridge(noise, x_0, x_t, T, S)
        at = law.gather(-1, x_s.unsqueeze(-1)).squeeze(-1)
        # Rarer than the grid sees, but possible.
        rare = entries(process.transition(S, T), x_s, x_t) > 0
        assert ((at > 0) | rare).all()


@pytest.mark.parametrize("kind", [Absorbing, Uniform])
def test_no_tensor_over_the_tokens_is_made(kind: type[Absorbing] | type[Uniform]) -> None:
    """A vocabulary of 10^12 tokens would not fit anywhere."""
    process = kind(10**12)
    x_0 = torch.randint(10**12, (len(T), 7))
    x_t = process.prior((5, 7), generator=torch.Generator(), device=torch.device("cpu"))
    assert process.bridge(torch.rand(3, *x_0.shape).double(), x_0, x_t, T, S).shape == (3, 5, 7)


@pytest.mark.parametrize("process", [Confidence(4, mask=2), Halton(4, mask=2, grid=(2, 4))])
def test_the_bridge_of_a_ranked_process_is_masked_diffusions(process: Absorbing) -> None:
    """q is the same; the draw is the ranked step with its tokens."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randint(2, (len(T), 8), generator=generator)
    x_t = process.corrupt(x_0, T, generator=generator)
    noise = torch.rand(2, 3, *x_t.shape, generator=generator, dtype=torch.float64)
    masked = Absorbing(4, process.schedule, mask=2)
    x_s = process.bridge(noise[0], x_0, x_t, T, S)
    assert torch.equal(x_s, masked.bridge(noise[0], x_0, x_t, T, S))
    logits = process.restrict(torch.randn(*x_t.shape, 4, generator=generator))
    log_p_0 = process.carry_over(logits.log_softmax(-1), x_t)
    drawn, x_s = process.draw(noise, log_p_0, x_t, T, S)
    assert torch.equal(x_s, process.step_by(noise, log_p_0, x_t, T, S))
    assert torch.equal(drawn, masked.draw(noise, log_p_0, x_t, T, S)[0])
    assert torch.equal(x_s.where(x_s != 2, drawn), drawn)
    assert (x_s[:, T == 1][..., :] == 2).any()


def test_what_absorbing_steps_drew_they_draw_still() -> None:
    """Two numbers a position: one for whether it opens, one for the token."""
    process = PROCESSES["absorbing-token"]
    assert isinstance(process, Absorbing)
    x_t, log_p_0 = some_prediction(process)
    noise = torch.rand(2, *x_t.shape, generator=torch.Generator(), dtype=torch.float64)
    opens = (x_t == 1) & (noise[0] < per_position(process.reveal_probability(T, S)))
    token = (log_p_0.exp().cumsum(-1) <= noise[1].unsqueeze(-1)).sum(-1)
    assert torch.equal(process.step_by(noise, log_p_0, x_t, T, S), token.where(opens, x_t))
