from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.pictures import image_grid, quality_plot, sample_sheet, tile
from di4c_plugin.evaluation.sweep import Cell

Pixels = NDArray[np.float32]
LEVELS = 17


def images(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(LEVELS, (n, 8, 8), generator=generator)


def cells(seed: int = 0) -> list[Cell]:
    return [
        Cell(name, steps, 100 / steps + seed, 0.1, images(12, seed + steps).flatten(1))
        for steps in (1, 2, 4)
        for name in ("teacher", "student")
    ]


PICTURES: dict[str, Callable[[int, Path], None]] = {
    "grid": lambda seed, path: image_grid(images(20, seed), path, levels=LEVELS),
    "sheet": lambda seed, path: sample_sheet(cells(seed), (8, 8), path, levels=LEVELS),
    "plot": lambda seed, path: quality_plot(cells(seed), path, metric="distance"),
}
every_picture = pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)


def read(path: Path) -> Pixels:
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels: Pixels = imread(path)
    return pixels


def test_tiles_are_laid_out_row_by_row() -> None:
    grid = tile(torch.arange(6).view(6, 1, 1) * 10 + torch.tensor([[1, 2], [3, 4]]), 3)
    assert grid.tolist() == [
        [1, 2, 11, 12, 21, 22],
        [3, 4, 13, 14, 23, 24],
        [31, 32, 41, 42, 51, 52],
        [33, 34, 43, 44, 53, 54],
    ]


@pytest.mark.parametrize(
    ("n", "grid"), [(1, [[1]]), (2, [[1, 2]]), (3, [[1, 2, 3]]), (4, [[1, 2, 3], [4, 0, 0]])]
)
def test_every_image_is_shown_also_where_they_fill_no_row(n: int, grid: list[list[int]]) -> None:
    assert tile(torch.arange(1, n + 1).view(n, 1, 1), 3).tolist() == grid


@every_picture
def test_pictures_are_functions_of_what_they_show(
    draw: Callable[[int, Path], None], tmp_path: Path
) -> None:
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        draw(seed, tmp_path / f"{name}.png")
    a, b, c = (read(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


# Half an inch an image at 120 dots an inch, and a border that matplotlib adds.
@pytest.mark.parametrize(("n", "width", "height"), [(1, 1, 1), (5, 5, 1), (20, 16, 2)])
def test_the_grid_is_as_large_as_its_images(
    n: int, width: int, height: int, tmp_path: Path
) -> None:
    image_grid(images(n), tmp_path / "grid.png", levels=LEVELS)
    rows, columns, _ = read(tmp_path / "grid.png").shape
    border = columns - 60 * width
    assert border == rows - 60 * height
    assert 0 <= border <= 30


def test_zero_is_white_and_the_highest_level_black(tmp_path: Path) -> None:
    both = torch.stack([torch.zeros(8, 8), torch.full((8, 8), LEVELS - 1)]).long()
    image_grid(both, tmp_path / "grid.png", levels=LEVELS)
    pixels = read(tmp_path / "grid.png")[..., 0]
    row = pixels[len(pixels) // 2]
    assert (row[len(row) // 4], row[3 * len(row) // 4]) == (1, 0)


@every_picture
def test_only_png_files_are_written(draw: Callable[[int, Path], None], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pdf must end in \.png$"):
        draw(0, tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []
