from dataclasses import replace

import pytest
import torch

from di4c_plugin.bench.cases import LossCase
from di4c_plugin.bench.loss import loss_and_gradients, make_inputs, measure_loss
from di4c_plugin.errors import UserError
from di4c_plugin.losses.terms import IMPLEMENTATIONS

SMALL = LossCase(vocab=50, latents=3, positions=7, hidden=5, repeats=1)
ALL = slice(None)


def test_the_unknown_positions_are_those_of_all_positions() -> None:
    (everywhere, all_targets), (unknown, targets) = (
        make_inputs(replace(SMALL, impl=impl)) for impl in ("naive", "chunked")
    )
    active = everywhere.active(ALL)
    assert int(active.sum()) == 4
    assert unknown.active(ALL).all()
    assert torch.equal(everywhere.h[:, active], unknown.h)
    assert torch.equal(all_targets.x_0[:, active], targets.x_0)
    # Revealed positions hold their token.
    assert torch.equal(everywhere.x[:, ~active], all_targets.x_0[:, ~active])


def test_logits_spread_like_those_of_a_network() -> None:
    student, _ = make_inputs(LossCase(vocab=1000, latents=2, positions=10, hidden=64))
    assert float((student.h @ student.weight.T).detach().std()) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_all_leaves_are_differentiated(impl: str) -> None:
    student, targets = make_inputs(replace(SMALL, impl=impl))
    loss_and_gradients(student, targets, impl, 1)
    assert student.bias is not None
    for leaf in (student.h, student.weight, student.bias):
        assert leaf.grad is not None
        assert leaf.grad.any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_time_and_memory_are_measured(impl: str, dtype: str) -> None:
    found = measure_loss(replace(SMALL, impl=impl, dtype=dtype))
    assert set(found) == {"peak_mb", "seconds"}
    assert found["seconds"] > 0


def test_the_peak_of_the_naive_twin_is_several_tensors_of_all_logits() -> None:
    case = LossCase(impl="naive", vocab=20_000, latents=8, positions=32, hidden=4, repeats=1)
    one = case.latents * case.positions * case.vocab * 4 / 1e6
    assert 5 * one < measure_loss(case)["peak_mb"] < 20 * one
    chunked = replace(case, impl="chunked", budget_mb=4)
    assert measure_loss(chunked)["peak_mb"] < one


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(UserError, match=r"^unknown loss 'fast'; there are naive, checkpoint"):
        measure_loss(replace(SMALL, impl="fast"))
