"""The correlation on windows, against loops over them and against the law of each window."""

import math

import pytest
import torch
from torch import Tensor

from di4c_plugin.losses.windows import Windows, correlation, place_windows
from tests.enumeration import states
from tests.losses.joint import correlation_loss

GRIDS = [(7,), (3, 5), (2, 4, 4)]


def placed(size: int, grid: tuple[int, ...], batch: int = 500) -> Windows:
    return place_windows(size, grid, batch, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [2, 3, 9])
def test_windows_hold_neighbours_and_every_offset_occurs(grid: tuple[int, ...], size: int) -> None:
    windows = placed(size, grid)
    where = torch.cartesian_prod(*map(torch.arange, grid)).view(math.prod(grid), len(grid))
    place = where[:, -2:] if len(grid) > 1 else where
    assert windows.index.shape == (500, math.prod(grid))
    assert int(windows.index.min()) >= 0
    assert int(windows.index.max()) < windows.count
    # A window of one example: neighbours along each axis, and whatever lies between them.
    for index in windows.index[:20]:
        for window in index.unique():
            inside = place[index == window]
            low, high = inside.min(0).values, inside.max(0).values
            assert (high - low < size).all()
            full = (place >= low).all(-1) & (place <= high).all(-1)
            assert torch.equal(full, index == window)
    offsets = min(size, grid[-1]) ** min(len(grid), 2) if size < min(grid[-2:]) else None
    if offsets is not None:
        assert len(windows.index.unique(dim=0)) == offsets
    if size >= max(grid):
        assert windows.count == 1


def test_neighbours_are_as_often_together_as_windows_allow() -> None:
    """Positions d and d + 1 share a window of w for w - 1 of w offsets."""
    for size in (2, 4):
        index = placed(size, (9,), 20_000).index
        share = (index[:, 1:] == index[:, :-1]).double().mean(0)
        error = 5 * (0.25 / 20_000) ** 0.5
        assert share.sub(1 - 1 / size).abs().max() < error


def test_it_is_the_sum_over_windows_of_the_correlation_on_each() -> None:
    generator = torch.Generator().manual_seed(1)
    ell = torch.randn(5, 3, 2, 7, generator=generator, dtype=torch.float64)
    cuts = [placed(size, (7,), 2) for size in (2, 4)]
    want = torch.zeros(2, dtype=torch.float64)
    for cut in cuts:
        for b in range(2):
            for window in cut.index[b].unique():
                inside = ell[:, :, b : b + 1, cut.index[b] == window]
                want[b] += correlation_loss(inside).squeeze() / len(cuts)
    example = torch.arange(2).repeat_interleave(7)
    flat = [Windows(cut.index.flatten(), cut.count) for cut in cuts]
    torch.testing.assert_close(correlation(ell.flatten(2), example, 2, flat), want)


def test_one_window_of_all_positions_is_no_window() -> None:
    ell = torch.randn(4, 2, 3, 6, generator=torch.Generator().manual_seed(2))
    example = torch.arange(3).repeat_interleave(6)
    cut = placed(6, (6,), 3)
    found = correlation(ell.flatten(2), example, 3, [Windows(cut.index.flatten(), cut.count)])
    torch.testing.assert_close(found, correlation_loss(ell))


def window_law(law: Tensor, x: Tensor, inside: Tensor) -> Tensor:
    """The probability of x_W for every state x (M, D) under a law (M,)."""
    same = (x[:, None, inside] == x[None, :, inside]).all(-1)
    return same.double() @ law


def test_each_window_has_the_marginal_of_the_mixture_on_it() -> None:
    """E_q of it is sum_W E_q[-log p(x_W)] - sum_d E_q[-log p(x_d)], by enumeration of p and q."""
    generator = torch.Generator().manual_seed(3)
    x = states(3, 4)
    log_p = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    ell = log_p[:, None].expand(-1, len(x), -1, -1).gather(-1, x.expand(2, -1, -1)[..., None])
    ell = ell.squeeze(-1)  # (N, M, D)
    p = ell.sum(-1).exp().mean(0)
    q = torch.rand(len(x), generator=generator, dtype=torch.float64)
    q /= q.sum()
    cut = Windows(torch.tensor([0, 1, 1, 2]), 3)
    want = sum(
        -(q * window_law(p, x, cut.index == window).log()).sum() for window in range(3)
    ) + sum((q * window_law(p, x, torch.arange(4) == d).log()).sum() for d in range(4))
    each = [
        correlation(ell[:, m : m + 1], torch.zeros(4, dtype=torch.long), 1, [cut])
        for m in range(len(x))
    ]
    torch.testing.assert_close((q * torch.cat(each)).sum(), want)
