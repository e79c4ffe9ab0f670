from dataclasses import replace
from typing import Any

import pytest
import torch

from di4c_plugin.bench import networks
from di4c_plugin.bench.cases import SampleCase, UpdateCase
from di4c_plugin.bench.networks import WARM_UP, make_teacher, measure_sample, measure_update, spread
from di4c_plugin.errors import UserError

SIZES: dict[str, Any] = {"vocab": 11, "positions": 6, "hidden": 16, "layers": 2, "heads": 2}
UPDATE = UpdateCase(**SIZES, batch=2, repeats=1)
WIDE: dict[str, Any] = {"vocab": 500, "hidden": 64}
SAMPLE = SampleCase(**SIZES, batch=2, repeats=4)
LATENTS: list[dict[str, Any] | None] = [None, {"name": "token", "blocks": 1}]


def test_no_matrix_of_the_random_teacher_is_zero() -> None:
    matrices = [p for p in make_teacher(UPDATE).denoiser.parameters() if p.ndim == 2]
    assert matrices
    assert all(p.any() for p in matrices)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("algo", [{"name": "di4c", "loss": "naive"}, {"name": "denoising"}])
def test_an_update_is_measured(
    algo: dict[str, Any], dtype: str, latent: dict[str, Any] | None
) -> None:
    found = measure_update(replace(UPDATE, algo=algo, dtype=dtype, latent=latent))
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(12)
    assert found["total_mb"] > found["peak_mb"]


@pytest.mark.parametrize(
    ("algo", "process"),
    [
        ({"name": "idlm", "together": True}, "absorbing"),
        ({"name": "dimo", "together": True}, "absorbing"),
        ({"name": "dcd", "loss": "chunked"}, "uniform"),
    ],
)
def test_a_method_is_measured_on_a_process_that_it_is_for(
    algo: dict[str, Any], process: str
) -> None:
    case = replace(UPDATE, algo=algo, process=process)
    assert make_teacher(case).process.config["name"] == process
    assert measure_update(case)["kept_mb"] > 0


def test_every_weight_of_the_student_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    optimisers: list[torch.optim.AdamW] = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            optimisers.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    update, tokens, _ = networks.make_update(UPDATE)
    update()
    assert tokens == 12
    (optimiser,) = optimisers
    parameters = optimiser.param_groups[0]["params"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


def test_what_is_kept_counts_a_shared_base_once() -> None:
    """Eight times the weights: of three networks; moments of two, whose gradients take turns."""
    pytest.importorskip("peft", reason="adapters are by peft")
    algo = {"name": "dmmd", "steps": 2}
    case = replace(UPDATE, **WIDE, algo=algo, latent={"name": "mask_noise"})
    one = sum(p.nbytes for p in make_teacher(case).denoiser.parameters()) / 1e6
    assert measure_update(case)["kept_mb"] == pytest.approx(8 * one, rel=0.02)
    adapted = measure_update(replace(case, adapter={"r": 1}))["kept_mb"]
    assert one < adapted < 1.3 * one


def test_a_teacher_of_the_users_own() -> None:
    found = measure_update(replace(UPDATE, teacher="builtin:digits"))
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(2 * 64)
    assert measure_sample(replace(SAMPLE, teacher="builtin:digits"))["ratio"] > 0


def test_the_ratio_is_the_median_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def call_of(name: str, cost: list[float]) -> object:
        def call() -> float:
            calls.append(name)
            return cost.pop(0)

        return call

    warm = [0.0] * WARM_UP
    made = {
        "teacher": call_of("teacher", [*warm, 1, 2, 4, 1]),
        "student": call_of("student", [*warm, 1.1, 2, 6, 1.3]),
    }
    monkeypatch.setattr(networks, "make_calls", lambda case: made)
    monkeypatch.setattr(networks, "seconds", lambda call, device: call())
    found = measure_sample(SAMPLE)
    assert found["ratio"] == pytest.approx(1.2)
    assert found["ratio_spread"] == pytest.approx((1.35 - 1.075) / 2)
    assert found["teacher_seconds"] == 1.5
    assert found["student_seconds"] == 1.65
    pairs = calls[2 * WARM_UP :]
    # Each pair has both, and both orders occur.
    orders = {tuple(pairs[i : i + 2]) for i in range(0, 8, 2)}
    assert orders == {("teacher", "student"), ("student", "teacher")}


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_call_is_measured(dtype: str, latent: dict[str, Any] | None) -> None:
    found = measure_sample(replace(SAMPLE, dtype=dtype, latent=latent))
    assert all(value > 0 for value in found.values())


def test_a_single_pair_has_no_spread() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 2.0, 3.0]) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "3 heads do not divide hidden size 16"),
        ({"latent": {"name": "no"}}, "unknown latent 'no'"),
        ({"latent": {"name": "adaln", "blocks": 3}}, "blocks"),
        ({"algo": {"name": "no"}}, "unknown algorithm 'no'"),
        ({"algo": {"name": "dcd"}}, "trajectory=data is for uniform-state diffusion"),
        ({"algo": {"name": "idlm"}, "process": "uniform"}, "are for masked processes"),
        ({"teacher": "no/such.ckpt"}, "no/such.ckpt"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_update(replace(UPDATE, **options))
