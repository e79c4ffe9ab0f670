from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from di4c_plugin.bench import loss
from di4c_plugin.bench.cases import LossCase
from di4c_plugin.bench.loss import (
    Inputs,
    loss_and_gradients,
    make_inputs,
    max_rel_error,
    measure_loss,
    write_reference,
)
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.losses.terms import IMPLEMENTATIONS

SMALL = LossCase(vocab=50, latents=3, positions=7, hidden=5, dtype="float64", repeats=1)
ALL = slice(None)


def gradients(inputs: Inputs, implementation: str) -> dict[str, Tensor]:
    return {"loss": loss_and_gradients(inputs, implementation, 1)} | inputs.gradients()


def test_inputs_are_a_function_of_the_case() -> None:
    one, two, other = (
        make_inputs(case, everywhere=True) for case in (SMALL, SMALL, replace(SMALL, seed=1))
    )
    for name in one.leaves:
        assert torch.equal(one.leaves[name], two.leaves[name])
        assert not torch.equal(one.leaves[name], other.leaves[name])
    assert one.targets.u is not None
    assert two.targets.u is not None
    assert torch.equal(one.targets.u, two.targets.u)


def test_the_unknown_positions_are_those_of_all_positions() -> None:
    everywhere, unknown = (make_inputs(SMALL, everywhere=flag) for flag in (True, False))
    active = everywhere.student.active(ALL)
    assert int(active.sum()) == SMALL.active == 4
    assert unknown.student.active(ALL).all()
    assert torch.equal(everywhere.student.h[:, active], unknown.student.h)
    assert torch.equal(everywhere.targets.x_0[:, active], unknown.targets.x_0)
    # Revealed positions hold their token.
    x_t, x_0 = everywhere.student.x, everywhere.targets.x_0
    assert torch.equal(x_t[:, ~active], x_0[:, ~active])


def test_logits_spread_like_those_of_a_network() -> None:
    case = LossCase(vocab=1000, latents=2, positions=10, hidden=64)
    student = make_inputs(case, everywhere=False).student
    assert float((student.h @ student.weight.T).detach().std()) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("everywhere", [True, False])
def test_draws_stand_in_the_middle_of_a_likely_token(everywhere: bool) -> None:
    targets = make_inputs(SMALL, everywhere=everywhere).targets
    assert targets.target is not None
    assert targets.u is not None
    log_p = targets.target.log_p(ALL)
    x = inverse_cdf(log_p, targets.u)
    p = log_p.exp().gather(-1, x.unsqueeze(-1)).squeeze(-1)
    assert (p >= 1 / SMALL.vocab).all()
    for shift in (-0.45, 0.45):
        assert torch.equal(inverse_cdf(log_p, targets.u + shift * p), x)
    free = make_inputs(SMALL, everywhere=everywhere, settled=False).targets.u
    assert free is not None
    assert not torch.equal(free, targets.u)
    # Not all the same.
    assert len(x.unique()) > 3


def test_all_implementations_get_the_same_loss_and_gradients() -> None:
    everywhere = make_inputs(SMALL, everywhere=True)
    naive = gradients(everywhere, "naive")
    active = everywhere.student.active(ALL)
    assert not naive["h"][:, ~active].any()
    naive["h"] = naive["h"][:, active]
    for name in IMPLEMENTATIONS:
        ours = gradients(make_inputs(SMALL, everywhere=False), name)
        assert max_rel_error(ours, naive) < 1e-12


def test_the_error_is_the_largest_of_all_relative_to_the_largest_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = {"loss": torch.tensor(2.0), "h": torch.tensor([[1.0, -10.0], [3.0, 4.0]])}
    ours = {"loss": torch.tensor(2.01), "h": torch.tensor([[1.0, -10.0], [3.5, 4.0]])}
    for piece in (1, 3, 100):
        monkeypatch.setattr(loss, "PIECE", piece)
        assert max_rel_error(ours, truth) == pytest.approx(0.05)
    assert max_rel_error(truth, truth) == 0


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_measured_against_the_twin_of_the_same_inputs(
    dtype: str, error: float, tmp_path: Path
) -> None:
    case = replace(SMALL, dtype=dtype, vocab=2000)
    path = tmp_path / "reference.pt"
    assert write_reference(case, path) == {}
    for impl in IMPLEMENTATIONS:
        found = measure_loss(replace(case, impl=impl, budget_mb=1), path)
        assert set(found) == {"peak_mb", "seconds", "max_rel_error"}
        assert 0 < found["max_rel_error"] < error
        assert found["seconds"] > 0


def test_a_twin_that_does_not_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "free_bytes", lambda device: 10**9)
    case = LossCase(vocab=100_000, latents=16, positions=256)
    path = tmp_path / "reference.pt"
    assert write_reference(case, path) == {
        "skipped": "the float64 twin needs about 16.4 GB, 1.0 GB are free"
    }
    assert not path.exists()
    assert measure_loss(SMALL)["max_rel_error"] is None


def test_the_peak_of_the_naive_twin_is_several_tensors_of_all_logits() -> None:
    case = LossCase(impl="naive", vocab=20_000, latents=8, positions=32, hidden=4, repeats=1)
    one = case.latents * case.positions * case.vocab * 4 / 1e6
    assert 5 * one < measure_loss(case)["peak_mb"] < 20 * one
    chunked = replace(case, impl="chunked", budget_mb=4)
    assert measure_loss(chunked)["peak_mb"] < one
