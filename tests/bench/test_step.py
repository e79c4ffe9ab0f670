from dataclasses import replace

import pytest
import torch

from di4c_plugin.algorithms.di4c_terms import LOSSES
from di4c_plugin.bench.cases import StepCase
from di4c_plugin.bench.step import make_update, measure_step

SMALL = StepCase(vocab=11, positions=6, hidden=16, layers=2, heads=2, batch=2, repeats=1, latents=3)


@pytest.mark.parametrize("impl", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_is_measured(impl: str, dtype: str) -> None:
    found = measure_step(replace(SMALL, impl=impl, dtype=dtype))
    tokens = SMALL.batch * SMALL.positions
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(tokens)
    assert found["total_mb"] > found["peak_mb"]


@pytest.mark.parametrize(("latent", "blocks"), [("adaln", 1), ("token", 1), ("mask_noise", None)])
def test_every_latent_is_trained(
    latent: str, blocks: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimisers: list[torch.optim.AdamW] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            optimisers.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    make_update(replace(SMALL, latent=latent, blocks=blocks))()
    (optimiser,) = optimisers
    parameters = optimiser.param_groups[0]["params"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert any(p.grad.any() for p in parameters)
