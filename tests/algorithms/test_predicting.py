"""Positions taken from a batch, predictions at them, and the teacher's step there."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.predicting import (
    Active,
    Everywhere,
    Places,
    States,
    has_head,
    predict,
    predict_one_by_one,
    split,
    take_step,
)
from di4c_plugin.checkpoints.model import new_model
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.losses.prediction import Formed, Hidden, Prediction
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.networks.denoiser import NetworkDenoiser
from tests.enumeration import assert_drawn_from

B, D, S, N = 2, 5, 6, 3
T, U = torch.tensor([0.9, 0.4]).double(), torch.tensor([0.5, 0.1]).double()
PROCESSES: dict[str, Process] = {
    "mask is a token": Absorbing(S, mask=2),
    "mask is a state": Absorbing(S),
    "uniform": Uniform(S),
    "uniform, leave one out": Uniform(S, leave_one_out=True),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
CONFIG = DiTConfig(S, D, hidden_size=8, cond_dim=4, n_blocks=2, n_heads=2)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def some_states(process: Process, generator: torch.Generator, latents: int | None = None) -> States:
    """x_t of B examples, with masks and without; lambda for a mixture."""
    x_0 = torch.randint(2, (B, D), generator=generator)
    x_t = process.corrupt(x_0, T, generator=generator)
    lam = None if latents is None else torch.rand(latents, B, 1, generator=generator)
    return States(x_t[None], T, None, lam)


def some_prediction(
    process: Process, states: States, places: Places, count: int, generator: torch.Generator
) -> tuple[Hidden, Formed]:
    """Hidden states at the places, and log p formed of them."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    h, weight, bias = draw(count, B, D, 4), draw(S, 4), draw(S)
    t = states.t.view(1, B, 1).expand(1, B, D)
    hidden = Hidden(places.take(h), weight, bias, places.take(states.x), places.take(t)[0], process)
    return hidden, Formed(hidden.log_p(slice(None)), hidden.active(slice(None)))


# Places


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_active_positions_in_their_order(share: float) -> None:
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < share
    values = torch.randn(2, 3, 7, 4)
    places = Active(mask)
    assert torch.equal(places.index, torch.nonzero(mask.flatten()).flatten())
    assert torch.equal(places.take(values), values[:, mask])
    assert torch.equal(places.take(values[..., 0]), values[..., 0][:, mask])
    assert places.take(values).shape == (2, int(mask.sum()), 4)


def test_everywhere_is_every_position() -> None:
    mask = torch.rand(3, 7) < 0.5
    values = torch.randn(2, 3, 7, 4)
    places = Everywhere(mask)
    assert torch.equal(places.index, torch.arange(21))
    assert torch.equal(places.take(values), values.flatten(1, 2))


# The teacher's step


@every_process
@pytest.mark.parametrize("teachers", [1, N], ids=["product", "mixture"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_step_is_the_same_by_chunks_of_hidden_states(
    process: Process, teachers: int, size: int, generator: torch.Generator
) -> None:
    states = some_states(process, generator)
    active = process.active(states.x[0])
    whole = Everywhere(active)
    hidden, formed = some_prediction(process, states, whole, teachers, generator)
    noise = process.step_noise((N, B, D), generator=generator, device=torch.device("cpu"))
    want = take_step(process, formed, states, whole, noise, U, 1)
    # By the process itself, one sample at a time.
    for n in range(N):
        log_p = formed.values[n % teachers].view(B, D, S)
        assert torch.equal(want[n], process.step_by(noise[:, n], log_p, states.x[0], T, U))
    at, places = torch.nonzero(active.flatten()).flatten(), Active(active)
    part = replace(hidden, h=hidden.h[:, at], x=hidden.x[:, at], t=hidden.t[at])
    cut = Formed(formed.values[:, at], formed.unknown[at])
    budget = 12 * N * S * size
    for teacher, where in ((part, places), (hidden, whole), (cut, places)):
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
    whole, places = Everywhere(active), Active(active)
    kind: Places = places if by_hidden else whole
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
    places = Active(process.active(states.x[0]))
    hidden, _ = some_prediction(process, states, places, 1, generator)
    noise = process.step_noise((N, B, D), generator=generator, device=torch.device("cpu"))
    x_u = take_step(process, hidden, states, places, noise, U, 1)
    assert torch.equal(x_u, states.x.expand(N, B, D))


# Predictions


def denoiser(process: Process, latent: str | None = None, seed: int = 0) -> NetworkDenoiser:
    """A DiT with random weights, none of them zero, in float64."""
    made = new_model(CONFIG, process, None if latent is None else {"name": latent}).denoiser
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=random) * 0.4)
    return made.double()


PREDICT: dict[str, Callable[[NetworkDenoiser, States, Places], Prediction]] = {
    "hidden": lambda d, s, p: predict(d, s, p, d.process, hidden=True),
    "formed": lambda d, s, p: predict(d, s, p, d.process, hidden=False),
    "one by one": predict_one_by_one,
}


@pytest.mark.parametrize("process", [PROCESSES["mask is a token"], PROCESSES["uniform"]])
@pytest.mark.parametrize("way", PREDICT)
def test_a_prediction_is_the_denoisers_at_the_places(
    process: Process, way: str, generator: torch.Generator
) -> None:
    student = denoiser(process, "adaln")
    states = some_states(process, generator, latents=N)
    assert states.latent is not None
    places = Active(process.active(states.x[0]))
    found = PREDICT[way](student, states, places)
    want = torch.stack([student(states.x[0], T, latent=lam) for lam in states.latent])
    assert found.count == N
    torch.testing.assert_close(found.log_p(slice(None)).exp(), places.take(want).exp())
    assert found.active(slice(None)).all()
    assert not torch.allclose(want[0], want[1])


def test_states_of_each_lambda_are_predicted_from_their_own(generator: torch.Generator) -> None:
    process = PROCESSES["mask is a token"]
    student = denoiser(process, "token")
    states = some_states(process, generator, latents=N)
    x_u = torch.randint(S, (N, B, D), generator=generator)
    after = States(x_u, U, None, states.latent)
    places = Active(process.active(states.x[0]))
    assert states.latent is not None
    want = torch.stack([student(x, U, latent=z) for x, z in zip(x_u, states.latent, strict=True)])
    for hidden in (True, False):
        found = predict(student, after, places, process, hidden=hidden, revealed=True)
        torch.testing.assert_close(found.log_p(slice(None)).exp(), places.take(want).exp())


def test_rows_are_lambda_major() -> None:
    x, lam = torch.arange(N * B * D).view(N, B, D), torch.arange(N * B).view(N, B, 1)
    cond = torch.tensor([7, 8])
    rows, t, options = States(x, T, cond, lam).rows
    assert torch.equal(rows, x.flatten(0, 1))
    assert t.tolist() == T.tolist() * N
    assert options["cond"] is not None
    assert options["cond"].tolist() == [7, 8] * N
    assert options["latent"] is not None
    assert options["latent"].flatten().tolist() == list(range(N * B))
    shared, t, options = States(x[:1], T, cond, lam).rows
    assert (len(shared), len(t)) == (B, B)
    assert options["latent"] is not None
    assert len(options["latent"]) == N * B


def test_split_is_one_lambda_each() -> None:
    x, lam = torch.arange(N * B * D).view(N, B, D), torch.rand(N, B, 1)
    parts = split(States(x, T, None, lam))
    assert torch.equal(torch.cat([part.x for part in parts]), x)
    assert all(part.latent is not None and part.latent.shape == (1, B, 1) for part in parts)
    assert len(split(States(x[:1], T, None, lam))) == N
    product = States(x[:1], T, None, None)
    assert split(product) == [product]


def test_who_has_a_head() -> None:
    process = Absorbing(S)
    small = TransformerConfig(
        num_tokens=S, num_states=S + 1, grid=(1, D), hidden_size=8, num_heads=2, mask=S
    )
    assert has_head(denoiser(PROCESSES["mask is a token"]))
    assert not has_head(new_model(small, process).denoiser)
    assert not has_head(None)
    assert not has_head(lambda x_t, t, *, cond=None, latent=None: x_t)
