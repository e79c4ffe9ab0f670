import math
from collections.abc import Callable

import pytest
import torch

from di4c_plugin.diffusion import (
    Arccos,
    Cosine,
    DuoCosine,
    LogLinear,
    MaskedSquare,
    Root,
    Schedule,
    Square,
    time_grid,
)
from di4c_plugin.diffusion.schedule import SCHEDULES
from di4c_plugin.errors import UserError

ALL = [LogLinear(), Cosine(), DuoCosine(), Arccos(), Root(), Square(), MaskedSquare()]
every_schedule = pytest.mark.parametrize("schedule", ALL)


def exactly(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_schedule
def test_the_ends_are_exact(schedule: Schedule) -> None:
    assert schedule.alpha(exactly(0, 1)).tolist() == [1, 0]


@every_schedule
def test_alpha_decreases_strictly(schedule: Schedule) -> None:
    alpha = schedule.alpha(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert (alpha.diff() < 0).all()


def test_all_schedules_are_registered() -> None:
    assert {type(schedule) for schedule in ALL} == set(SCHEDULES.values())


def test_log_linear_is_a_line_that_ends_at_eps() -> None:
    assert LogLinear().alpha(exactly(0.25)).item() == 0.75
    assert LogLinear(eps=1e-3).alpha(exactly(1)).item() == pytest.approx(1e-3)


def test_cosine_at_a_third() -> None:
    assert Cosine().alpha(exactly(2 / 3)).item() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("masked", [0.1, 0.5, 0.9])
def test_duos_cosine_masks_a_cosine_of_what_is_left(masked: float) -> None:
    t = 1 - math.acos(masked) / (math.pi / 2)
    assert DuoCosine().alpha(exactly(1 - t)).item() == pytest.approx(
        1 - math.sqrt(1 - masked**2), abs=1e-12
    )
    assert DuoCosine().alpha(exactly(t)).item() == pytest.approx(1 - masked, abs=1e-12)


def test_duos_cosine_ends_a_little_above_0() -> None:
    end = DuoCosine(eps=1e-3).alpha(exactly(0, 1))
    assert end.tolist() == [1, pytest.approx((math.pi / 2 * 1e-3) ** 2 / 2, rel=1e-5)]


@pytest.mark.parametrize("revealed", [0.0, 0.1, 0.5, math.sqrt(0.5), 0.99, 1.0])
def test_arccos_masks_the_share_that_maskgit_does(revealed: float) -> None:
    masked = 1 - Arccos().alpha(exactly(1 - revealed)).item()
    assert masked == pytest.approx(2 / math.pi * math.acos(revealed), abs=1e-8)


# Halton-MaskGIT, get_mask_code: the share masked where a share r is revealed.
REVEALED: list[tuple[Schedule, Callable[[float], float]]] = [
    (Root(), lambda r: 1 - r**0.5),
    (LogLinear(), lambda r: 1 - r),
    (Square(), lambda r: 1 - r**2),
    (DuoCosine(), lambda r: math.cos(r * math.pi * 0.5)),
    (Arccos(), lambda r: math.acos(r) / (math.pi * 0.5)),
]


@pytest.mark.parametrize(("schedule", "share"), REVEALED)
def test_maskgits_schedules_by_its_formulas(
    schedule: Schedule, share: Callable[[float], float]
) -> None:
    for r in (0.0, 0.03, 0.25, 0.7, 0.99, 1.0):
        masked = 1 - schedule.alpha(exactly(1 - r)).item()
        assert masked == pytest.approx(share(r), abs=1e-8)


def test_the_square_of_maskgit_v1s_training_masks_the_square_of_t() -> None:
    assert 1 - MaskedSquare().alpha(exactly(0.3)).item() == pytest.approx(0.09)


@every_schedule
def test_float32_times_are_evaluated_in_float64(schedule: Schedule) -> None:
    t = torch.tensor([0.3], dtype=torch.float32)
    assert torch.equal(schedule.alpha(t), schedule.alpha(t.double()))


@pytest.mark.parametrize("t_min", [0.0, 0.01])
def test_time_grids_are_even_and_end_exactly(t_min: float) -> None:
    for steps in range(1, 1001):
        grid = time_grid(steps, t_min)
        assert grid.dtype == torch.float64
        assert grid.shape == (steps + 1,)
        assert (grid[0].item(), grid[-1].item()) == (1, t_min)
        torch.testing.assert_close(-grid.diff() * steps, torch.full((steps,), 1 - t_min).double())


@pytest.mark.parametrize(("steps", "t_min"), [(0, 0.0), (-1, 0.0), (4, 1.0), (4, -0.1)])
def test_impossible_grids_are_refused(steps: int, t_min: float) -> None:
    with pytest.raises(UserError, match="must be"):
        time_grid(steps, t_min)
