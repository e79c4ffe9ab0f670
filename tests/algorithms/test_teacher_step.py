"""The teacher's step, by chunks of hidden states and whole."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.teacher_step import take_step
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.networks.predict import ActivePositions, AllPositions, Positions, States
from di4c_plugin.networks.predictions import Formed, Hidden, Prediction
from tests.enumeration import assert_drawn_from
from tests.networks.test_predict import B, D, N, S, T, U, every_process, some_states


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def some_prediction(
    process: Process, states: States, positions: Positions, count: int, generator: torch.Generator
) -> tuple[Hidden, Formed]:
    """Hidden states at the positions, and log p formed of them."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    h, weight, bias = draw(count, B, D, 4), draw(S, 4), draw(S)
    t = states.t.view(1, B, 1).expand(1, B, D)
    hidden = Hidden(
        positions.take(h), weight, bias, positions.take(states.x), positions.take(t)[0], process
    )
    return hidden, Formed(hidden.log_p(slice(None)), hidden.active(slice(None)))


@every_process
@pytest.mark.parametrize("teachers", [1, N], ids=["product", "mixture"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_step_is_the_same_by_chunks_of_hidden_states(
    process: Process, teachers: int, size: int, generator: torch.Generator
) -> None:
    states = some_states(process, generator)
    active = process.active(states.x[0])
    whole = AllPositions(active)
    hidden, formed = some_prediction(process, states, whole, teachers, generator)
    noise = process.step_noise((N, B, D), generator=generator, device=torch.device("cpu"))
    want = take_step(process, formed, states, whole, noise, U, 1)
    # By the process itself, one sample at a time.
    for n in range(N):
        log_p = formed.values[n % teachers].view(B, D, S)
        assert torch.equal(want[n], process.step_by(noise[:, n], log_p, states.x[0], T, U))
    at, positions = torch.nonzero(active.flatten()).flatten(), ActivePositions(active)
    part = replace(hidden, h=hidden.h[:, at], x=hidden.x[:, at], t=hidden.t[at])
    cut = Formed(formed.values[:, at], formed.unknown[at])
    budget = 12 * N * S * size
    for teacher, where in ((part, positions), (hidden, whole), (cut, positions)):
        found = take_step(process, teacher, states, where, noise, U, budget)
        assert torch.equal(found, want)
    closed = ~active
    assert torch.equal(want[:, closed], states.x[:, closed].expand(N, -1))
    assert (want != want[0]).any()


@every_process
@pytest.mark.parametrize("by_hidden", [True, False], ids=["hidden", "formed"])
def test_a_step_is_drawn_from_the_posterior(
    process: Process, by_hidden: bool, generator: torch.Generator
) -> None:
    draws = 4000
    states = some_states(process, generator)
    active = process.active(states.x[0])
    whole, positions = AllPositions(active), ActivePositions(active)
    kind: Positions = positions if by_hidden else whole
    predictions = some_prediction(process, states, kind, 1, generator)
    noise = process.step_noise((draws, B, D), generator=generator, device=torch.device("cpu"))
    teacher: Prediction = predictions[0] if by_hidden else predictions[1]
    x_u = take_step(process, teacher, states, kind, noise, U, 1 << 30).flatten(1)
    log_p = predictions[1].values[0]
    x, t, u = (
        kind.take(v.expand(1, B, D))[0] for v in (states.x, T.view(1, B, 1), U.view(1, B, 1))
    )
    law = process.log_posterior(log_p[:, None], x[:, None], t, u).exp().squeeze(1)
    for place, of in zip(kind.index.tolist(), law, strict=True):
        # Too rare for the chi-square approximation.
        common = of > 5 / draws
        seen = x_u[:, place]
        seen = seen[common[seen]]
        assert len(seen) > 0.9 * draws
        assert_drawn_from(seen, of.where(common, 0) / of[common].sum())


def test_without_active_positions_nothing_moves(generator: torch.Generator) -> None:
    process = Absorbing(S)
    states = States(torch.zeros(1, B, D, dtype=torch.int64), T, None, None)
    positions = ActivePositions(process.active(states.x[0]))
    hidden, _ = some_prediction(process, states, positions, 1, generator)
    noise = process.step_noise((N, B, D), generator=generator, device=torch.device("cpu"))
    x_u = take_step(process, hidden, states, positions, noise, U, 1)
    assert torch.equal(x_u, states.x.expand(N, B, D))
