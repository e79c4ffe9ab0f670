"""The order against fractions, and against the host's own where it is there."""

import importlib.util
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.diffusion import Halton, LogLinear, build_process
from di4c_plugin.diffusion.halton import halton_ranks
from di4c_plugin.errors import UserError

CPU = torch.device("cpu")


def radical_inverse(index: int, base: int) -> Fraction:
    """The digits of `index` behind the point, the last one first."""
    value, scale = Fraction(0), Fraction(1, base)
    while index:
        value, index, scale = value + index % base * scale, index // base, scale / base
    return value


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 8), (16, 16), (24, 24), (4, 9), (9, 2)])
def test_cells_come_in_the_order_of_their_first_points(height: int, width: int) -> None:
    order: list[tuple[int, int]] = []
    for index in range(1, 40 * height * width + 100):
        row, column = radical_inverse(index, 2) * height, radical_inverse(index, 3) * width
        if (int(row), int(column)) not in order:
            order.append((int(row), int(column)))
    assert len(order) == height * width
    places = halton_ranks(height, width, CPU).view(height, width)
    assert [int(places[cell]) for cell in order] == list(range(height * width))


def test_early_cells_are_spread() -> None:
    """Every quarter of the grid, and every third of columns, has its share of any first cells."""
    places = halton_ranks(16, 16, CPU).view(16, 16)
    for count in (8, 16, 32, 64, 128):
        first = (places < count).double()
        quarters = first.unfold(0, 8, 8).unfold(1, 8, 8).sum((-1, -2))
        assert (quarters - count / 4).abs().max() <= 3


def host_sampler() -> Any:
    """The module of Halton-MaskGIT's sampler, read from its file."""
    path = Path(__file__).parents[2] / "external/halton_maskgit/Sampler/halton_sampler.py"
    if not path.exists():
        pytest.skip("external/halton_maskgit is empty")
    spec = importlib.util.spec_from_file_location("halton_sampler_of_the_host", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.host
@pytest.mark.parametrize("side", [4, 8, 16, 24, 32])
def test_the_order_is_the_hosts(side: int) -> None:
    cells = host_sampler().HaltonSampler.build_halton_mask(side)
    places = halton_ranks(side, side, CPU).view(side, side)
    assert places[cells[:, 0], cells[:, 1]].tolist() == list(range(side * side))


def test_masks_open_along_the_order() -> None:
    """Open positions are skipped; the tokens are drawn from p."""
    process = Halton(3, LogLinear())
    places = halton_ranks(4, 4, CPU)
    x_t = torch.full((1, 16), process.mask)
    x_t[:, places < 4] = 1
    x_t[:, places == 9] = 2
    log_p_0 = torch.full((1, 16, 3), -1e6)
    log_p_0[..., 0] = 0
    t = torch.full((1,), 11 / 16, dtype=torch.float64)
    noise = torch.rand(2, 1, 16, dtype=torch.float64)
    x_s = process.step_by(noise, log_p_0, x_t, t, t * 5 / 11)
    assert torch.equal((x_s == 0)[0], (places >= 4) & (places < 11) & (places != 9))
    assert torch.equal(x_s.where(x_t != 3, 3), x_t)


@pytest.mark.parametrize("u", [0.0, 0.3, 1 - 2**-53])
def test_a_random_start_goes_round(u: float) -> None:
    process = Halton(3, LogLinear(), grid=(2, 8), randomize=True)
    places = halton_ranks(2, 8, CPU)
    noise = torch.rand(2, 3, 1, 16, dtype=torch.float64)
    noise[0, :, :, 0] = u
    start = int(u * 16)
    x_t, one = torch.full((1, 16), process.mask), torch.ones(1, dtype=torch.float64)
    x_s = process.step_by(noise, torch.zeros(1, 16, 3), x_t, one, one / 2)
    assert torch.equal(x_s != process.mask, ((places - start) % 16 < 8).expand(3, 1, -1))


def test_each_lambda_and_example_starts_elsewhere() -> None:
    process = Halton(3, randomize=True)
    noise = process.step_noise(
        (50, 2, 16), generator=torch.Generator().manual_seed(0), device=torch.device("cpu")
    )
    x_t, one = torch.full((2, 16), process.mask), torch.ones(2, dtype=torch.float64)
    opened = process.step_by(noise, torch.zeros(2, 16, 3), x_t, one, one * 0.9) != process.mask
    assert len(opened.flatten(0, 1).unique(dim=0)) == 16


def test_the_config_rebuilds_it() -> None:
    for process in (Halton(5), Halton(5, LogLinear(), mask=1, grid=(2, 3), randomize=True)):
        again = build_process(process.config)
        assert isinstance(again, Halton)
        assert again.config == process.config
        assert (again.grid, again.randomize) == (process.grid, process.randomize)


def test_what_does_not_fill_the_grid_is_refused() -> None:
    one, x = torch.ones(1, dtype=torch.float64), torch.full((1, 6), 3)
    noise = torch.zeros(2, 1, 6, dtype=torch.float64)
    with pytest.raises(UserError, match="a grid of 6 positions is no square: give the grid"):
        Halton(3).step_by(noise, torch.zeros(1, 6, 3), x, one, one / 2)
    with pytest.raises(UserError, match=r"a grid of 6 positions is not \(2, 2\)"):
        Halton(3, grid=(2, 2)).step_by(noise, torch.zeros(1, 6, 3), x, one, one / 2)
    with pytest.raises(UserError, match=r"at least 1, not \[0, 2\]"):
        Halton(3, grid=(0, 2))
