from typing import Any

import pytest
import torch

from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.algorithms.noising import (
    drop_labels,
    low_discrepancy_times,
    more_early,
)
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import NO_LABEL
from tests.enumeration import TableDenoiser


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_cell_of_time_has_one_value(count: int) -> None:
    t = low_discrepancy_times(count, 0.2, generator())
    assert t.dtype == torch.float64
    assert ((t - 0.2) / 0.8 * count).floor().tolist() == list(range(count))


def test_times_are_uniform_within_their_cell() -> None:
    g = generator()
    t = torch.stack([low_discrepancy_times(2, 0.0, g) for _ in range(4000)])
    assert torch.allclose(t.mean(0), torch.tensor([0.25, 0.75]).double(), atol=0.01)
    assert torch.allclose(t.var(0), torch.full((2,), 0.25 / 12).double(), rtol=0.1)


def test_the_share_of_labels_is_dropped_and_the_others_stay() -> None:
    labels = torch.arange(10_000) % 10
    kept = drop_labels(labels, 0.3, generator())
    assert kept is not None
    dropped = kept == NO_LABEL
    assert torch.equal(kept[~dropped], labels[~dropped])
    assert dropped.double().mean() == pytest.approx(0.3, abs=0.02)


def test_without_labels_there_are_none_to_drop() -> None:
    assert drop_labels(None, 0.3, generator()) is None


@pytest.mark.parametrize(
    ("early", "share", "min_time"), [(0.02, 0.3, 1e-3), (0.5, 0.1, 0.0), (0.2, 0.0, 0.1)]
)
def test_the_share_of_early_times_is_as_asked_and_both_sides_are_even(
    early: float, share: float, min_time: float
) -> None:
    # Evenly spread times, mapped, have the quantiles of the law.
    even = min_time + (1 - min_time) * (torch.arange(10_000).double() + 0.5) / 10_000
    t = more_early(even, early, share, min_time)
    assert (t.diff() > 0).all()
    assert t.min() >= min_time
    assert t.max() < 1
    below = t < early
    assert below.double().mean() == pytest.approx(share, abs=1e-4)
    assert t[~below].mean() == pytest.approx((early + 1) / 2, abs=1e-3)
    assert t[~below].var() == pytest.approx((1 - early) ** 2 / 12, rel=1e-2)
    if share:
        assert t[below].mean() == pytest.approx((early + min_time) / 2, abs=1e-3)


def test_every_time_may_be_early() -> None:
    t = more_early(torch.tensor([0.0, 0.5, 0.999]).double(), 0.1, 1.0, 0.0)
    torch.testing.assert_close(t, torch.tensor([0.0, 0.05, 0.0999]).double())


def times(updates: int = 400, size: int = 5, **options: Any) -> torch.Tensor:
    """The times that Di4C noises its examples at."""
    seen: list[torch.Tensor] = []

    class Spy(Absorbing):
        def corrupt(
            self, x_0: torch.Tensor, t: torch.Tensor, *, generator: torch.Generator
        ) -> torch.Tensor:
            seen.append(t)
            return super().corrupt(x_0, t, generator=generator)

    process = Spy(2)
    networks = {
        "student": TableDenoiser(process, 2, 2),
        "teacher": TableDenoiser(process, 2, seed=1),
    }
    method, g = Di4C(process, latents=1, **options), generator()
    for _ in range(updates):
        method.losses(Batch(torch.zeros(size, 2).long()), networks, Update(g))
    return torch.stack(seen)


def test_di4c_spends_the_share_of_its_examples_below_delta() -> None:
    t = times(delta=0.02, delta_share=0.3)
    assert (t < 0.02).double().mean() == pytest.approx(0.3, abs=0.02)
    # Spread over the batch: every update has one or two of five.
    assert set((t < 0.02).sum(1).tolist()) == {1, 2}
    assert (t >= 1e-3).all()


def test_di4c_draws_times_uniformly_without_a_share() -> None:
    t = times(delta=0.2, delta_share=None)
    assert (t < 0.2).double().mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta_share": -0.1}, "delta_share must be in"),
        ({"delta_share": 1.1}, "delta_share must be in"),
        ({"delta_share": 0.3, "delta": 1.0}, "delta must be in"),
        ({"delta_share": 0.3, "delta": 0.01, "min_time": 0.02}, "min_time must be at most delta"),
    ],
)
def test_shares_and_times_that_do_not_fit_are_refused(
    options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Di4C(Absorbing(2), **options)  # type: ignore[arg-type]
