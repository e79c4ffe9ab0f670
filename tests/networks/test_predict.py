"""Positions taken from a batch, and predictions at them."""

from collections.abc import Callable

import pytest
import torch

from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.families import new_model
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.networks.denoiser import NetworkDenoiser
from di4c_plugin.networks.predict import (
    ActivePositions,
    AllPositions,
    Positions,
    States,
    has_head,
    predict,
    predict_one_by_one,
    split,
)
from di4c_plugin.networks.predictions import Prediction

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


# Positions


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_active_positions_in_their_order(share: float) -> None:
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < share
    values = torch.randn(2, 3, 7, 4)
    positions = ActivePositions(mask)
    assert torch.equal(positions.index, torch.nonzero(mask.flatten()).flatten())
    assert torch.equal(positions.take(values), values[:, mask])
    assert torch.equal(positions.take(values[..., 0]), values[..., 0][:, mask])
    assert positions.take(values).shape == (2, int(mask.sum()), 4)


def test_everywhere_is_every_position() -> None:
    mask = torch.rand(3, 7) < 0.5
    values = torch.randn(2, 3, 7, 4)
    positions = AllPositions(mask)
    assert torch.equal(positions.index, torch.arange(21))
    assert torch.equal(positions.take(values), values.flatten(1, 2))


# Predictions


def denoiser(process: Process, latent: str | None = None, seed: int = 0) -> NetworkDenoiser:
    """A DiT with random weights, none of them zero, in float64."""
    made = new_model(CONFIG, process, None if latent is None else {"name": latent}).denoiser
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=random) * 0.4)
    return made.double()


PREDICT: dict[str, Callable[[NetworkDenoiser, States, Positions], Prediction]] = {
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
    positions = ActivePositions(process.active(states.x[0]))
    found = PREDICT[way](student, states, positions)
    want = torch.stack([student(states.x[0], T, latent=lam) for lam in states.latent])
    assert found.count == N
    torch.testing.assert_close(found.log_p(slice(None)).exp(), positions.take(want).exp())
    assert found.active(slice(None)).all()
    assert not torch.allclose(want[0], want[1])


def test_states_of_each_lambda_are_predicted_from_their_own(generator: torch.Generator) -> None:
    process = PROCESSES["mask is a token"]
    student = denoiser(process, "token")
    states = some_states(process, generator, latents=N)
    x_u = torch.randint(S, (N, B, D), generator=generator)
    after = States(x_u, U, None, states.latent)
    positions = ActivePositions(process.active(states.x[0]))
    assert states.latent is not None
    want = torch.stack([student(x, U, latent=z) for x, z in zip(x_u, states.latent, strict=True)])
    for hidden in (True, False):
        found = predict(student, after, positions, process, hidden=hidden, revealed=True)
        torch.testing.assert_close(found.log_p(slice(None)).exp(), positions.take(want).exp())


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
