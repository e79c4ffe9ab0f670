from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import pictures
from di4c_plugin.evaluation.pictures import (
    image_grid,
    quality_plot,
    sample_rows,
    sample_sheet,
    tile,
    write_pictures,
)
from di4c_plugin.evaluation.sweep import Cell

Pixels = NDArray[np.float32]
LEVELS = 17


def images(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(LEVELS, (n, 8, 8), generator=generator)


def colours(n: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, 8, 8), generator=generator, dtype=torch.uint8)


def cells(seed: int = 0) -> list[Cell]:
    return [
        Cell(name, steps, 100 / steps + seed, 0.1, images(12, seed + steps).flatten(1))
        for steps in (1, 2, 4)
        for name in ("teacher", "student")
    ]


PICTURES: dict[str, Callable[[int, Path], None]] = {
    "grid": lambda seed, path: image_grid(images(20, seed), path, levels=LEVELS),
    "colours": lambda seed, path: image_grid(colours(20, seed), path),
    "sheet": lambda seed, path: sample_sheet(cells(seed), (8, 8), path, levels=LEVELS),
    "sheet with gaps": lambda seed, path: sample_sheet(
        cells(seed)[:-1], (8, 8), path, levels=LEVELS
    ),
    "rows": lambda seed, path: sample_rows(
        {name: images(10, seed + k).flatten(1) for k, name in enumerate("ab")},
        (8, 8),
        path,
        levels=LEVELS,
    ),
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


def test_tiles_keep_their_channels_and_may_be_filled_up() -> None:
    images = torch.arange(9).view(3, 1, 1, 3)
    grid = tile(images, 2, blank=7)
    assert grid.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [7, 7, 7]]]


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


def bytes_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        assert file.format == "PNG"
        return np.array(file)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("side", "factor", "columns"), [(8, 8, 16), (32, 2, 16), (40, 1, 16), (200, 1, 8)]
)
def test_pictures_are_drawn_pixel_by_pixel(
    channels: int, side: int, factor: int, columns: int, tmp_path: Path
) -> None:
    x = torch.arange(20 * channels * side**2).mul(7).remainder(251).to(torch.uint8)
    x = x.view(20, channels, side, side)
    image_grid(x, tmp_path / "grid.png")
    grid, cell = bytes_of(tmp_path / "grid.png"), (side + 2) * factor
    rows = -(-20 // columns)
    assert grid.shape[:2] == (rows * cell, columns * cell)
    for k in (0, 1, 19):
        top, left = k // columns * cell + factor, k % columns * cell + factor
        inner = side * factor
        shown = grid[top : top + inner : factor, left : left + inner : factor]
        assert np.array_equal(shown.reshape(side, side, -1), x[k].movedim(0, -1).numpy())
    for start in range(0, cell * columns, cell):  # white to both sides of each
        assert (grid[:, start : start + factor] == 255).all()
        assert (grid[:, start + cell - factor : start + cell] == 255).all()
    assert (grid[-1, -1] == 255).all()


@pytest.mark.parametrize("draw", ["grid", "colours"])
def test_black_neighbours_do_not_run_into_each_other(draw: str, tmp_path: Path) -> None:
    black = torch.full((4, 8, 8), LEVELS - 1)
    if draw == "colours":
        black = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    image_grid(black, tmp_path / "grid.png", levels=LEVELS)
    pixels = read(tmp_path / "grid.png")
    row = (pixels if pixels.ndim == 2 else pixels[..., 0])[len(pixels) // 2]
    changes = np.flatnonzero(np.diff(row < 0.5))
    assert len(changes) == 8  # four black parts, white between and around
    assert np.diff(changes)[1::2].min() >= 8  # pixels between two


@pytest.mark.parametrize(
    "values",
    [[57.0, 61.0], [3.1, 4.9], [0.021, 0.0215], [426.8, 13.0], [7.0], [9.99, 10.02], [0.0, 3.0]],
)
def test_numbers_at_the_axes_are_where_the_data_are(
    values: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    cells = [Cell("x", 2**k, value, 0.1, images(1)) for k, value in enumerate(values)]
    quality_plot(cells, Path("x.png"), metric="distance")
    FigureCanvasAgg(figures[0]).draw()  # type: ignore[no-untyped-call]
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    shown = [t for t in axes.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert len(shown) >= 2
    labels = [tick.label1.get_text() for tick in shown]
    assert len(set(labels)) == len(labels)
    assert all(
        float(text) == pytest.approx(t.get_loc()) for text, t in zip(labels, shown, strict=True)
    )
    steps = [label.get_text() for label in axes.get_xticklabels()]
    assert steps == [str(2**k) for k in range(len(values))]


@pytest.mark.parametrize("channels", [1, 3])
def test_single_pictures_are_numbered_over_all_batches(channels: int, tmp_path: Path) -> None:
    x = colours(5, channels=channels)
    write_pictures(x.split(2), tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{k}.png" for k in range(5)}
    for k in range(5):
        read = bytes_of(tmp_path / "new" / f"{k}.png")
        assert np.array_equal(read.reshape(8, 8, channels), x[k].movedim(0, -1).numpy())


def test_pictures_of_one_pixel_are_written_too(tmp_path: Path) -> None:
    write_pictures([torch.full((1, 1, 1, 1), 9, dtype=torch.uint8)], tmp_path / "new")
    assert bytes_of(tmp_path / "new" / "0.png").tolist() == [[9]]


def test_single_pictures_do_not_mix_with_others(tmp_path: Path) -> None:
    (tmp_path / "7.png").touch()
    with pytest.raises(UserError, match="is not empty: the pictures would mix with what is there$"):
        write_pictures([colours(2)], tmp_path)
    with pytest.raises(UserError, match=r"7\.png is a file: pictures go to a folder$"):
        write_pictures([colours(2)], tmp_path / "7.png")
    assert [path.name for path in tmp_path.iterdir()] == ["7.png"]
