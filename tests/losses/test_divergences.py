"""Divergences at a position, against sums written out, and by chunks against the naive twin."""

import math

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion.process import LOG_ZERO
from di4c_plugin.losses.divergences import DIVERGENCES
from di4c_plugin.losses.positions import position_sums
from di4c_plugin.networks.predict import ActivePositions
from tests.algorithms.test_teacher_step import some_prediction
from tests.networks.test_predict import S, every_process, some_states


def laws(seed: int) -> Tensor:
    """Log-probabilities (1, 4, 5), their last token impossible."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 4, 5, generator=random, dtype=torch.float64)
    logits[..., -1] = LOG_ZERO
    return logits.log_softmax(-1)


def written_out(name: str, p: list[float], q: list[float]) -> float:
    pairs = [(a, b) for a, b in zip(p, q, strict=True) if a > 0]
    ratios = [math.log(a / b) for a, b in pairs]
    return {
        "kl": sum(b * -r for (_, b), r in zip(pairs, ratios, strict=True)),
        "reverse_kl": sum(a * r for (a, _), r in zip(pairs, ratios, strict=True)),
        "mse": sum(r**2 for r in ratios) / len(p),
        "l1": sum(map(abs, ratios)),
        "tvd": sum(abs(a - b) for a, b in pairs) / 2,
    }[name]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_each_is_its_sum(name: str) -> None:
    log_p, log_q = laws(0), laws(1)
    found = DIVERGENCES[name](log_p, log_q)
    for at in range(4):
        wanted = written_out(name, log_p[0, at].exp().tolist(), log_q[0, at].exp().tolist())
        assert found[0, at].item() == pytest.approx(wanted, rel=1e-9)
    assert not DIVERGENCES[name](log_p, log_p).any()
    other = DIVERGENCES[name](log_q, log_p)
    assert torch.allclose(found, other) == (name in ("mse", "l1", "tvd"))


@every_process
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_have_the_gradients_of_the_naive_twin(process: object, name: str, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    states = some_states(process, generator)  # type: ignore[arg-type]
    positions = ActivePositions(process.active(states.x[0]))  # type: ignore[attr-defined]
    p, _ = some_prediction(process, states, positions, 1, generator)  # type: ignore[arg-type]
    q, _ = some_prediction(process, states, positions, 1, generator)  # type: ignore[arg-type]
    leaves = [leaf.requires_grad_() for leaf in p.leaves if leaf is not None]
    found = []
    for kind in ("naive", "chunked"):
        (values,) = position_sums(
            lambda part, log_p, log_q: [DIVERGENCES[name](log_p, log_q)],
            p,
            q,
            implementation=kind,
            max_bytes=12 * 2 * S * size,
        )
        found.append((values, torch.autograd.grad(values.square().sum(), leaves)))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0].abs().sum() > 0
