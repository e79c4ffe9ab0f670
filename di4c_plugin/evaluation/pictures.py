"""Pictures of samples and of quality against steps, as PNG files.

matplotlib's object interface is used, so that no display is needed and no global state is touched.
Tests: tests/evaluation/test_pictures.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.sweep import Cell
from di4c_plugin.files import atomic_write


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically; raises UserError for a path that does not end in .png."""
    if path.suffix.lower() != ".png":
        raise UserError(f"pictures are PNG files: {path} must end in .png")
    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


def tile(images: Tensor, columns: int) -> NDArray[Any]:
    """Lay images (n, H, W) out in rows of `columns`; zeros fill what is left of the last row."""
    columns = min(columns, len(images))
    blank = images.new_zeros(-len(images) % columns, *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (-1, columns)).permute(0, 2, 1, 3)
    return grid.flatten(2).flatten(0, 1).numpy()


def image_grid(images: Tensor, path: Path, *, levels: int, columns: int = 16) -> None:
    """Draw images (n, H, W) of grey levels 0 ... levels - 1, dark on light."""
    grid = tile(images, columns)
    figure = Figure(
        figsize=(grid.shape[1] / images.shape[2] / 2, grid.shape[0] / images.shape[1] / 2)
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid, cmap="gray_r", vmin=0, vmax=levels - 1)
    axes.set_axis_off()
    save(figure, path)


def sample_sheet(
    cells: Sequence[Cell], shape: tuple[int, int], path: Path, *, levels: int, per_cell: int = 10
) -> None:
    """Draw samples of every cell: one row for each number of steps, one column for each sampler."""
    names = list(dict.fromkeys(c.sampler for c in cells))
    steps = list(dict.fromkeys(c.steps for c in cells))
    figure = Figure(figsize=(5 * len(names), 0.55 * len(steps) + 0.4))
    axes = figure.subplots(len(steps), len(names), squeeze=False)
    for cell in cells:
        row, column = steps.index(cell.steps), names.index(cell.sampler)
        ax = axes[row][column]
        # A margin tells neighbours apart.
        images = pad(cell.samples[:per_cell].view(-1, *shape), (1, 1, 1, 1))
        ax.imshow(tile(images, per_cell), cmap="gray_r", vmin=0, vmax=levels - 1)
        ax.set(xticks=[], yticks=[])
        if row == 0:
            ax.set_title(cell.sampler)
        if column == 0:
            ax.set_ylabel(f"{cell.steps}", rotation=0, ha="right", va="center")
    save(figure, path)


def quality_plot(cells: Sequence[Cell], path: Path, *, metric: str) -> None:
    """Draw the distance against the number of steps, one line for each sampler, both axes log."""
    figure = Figure(figsize=(5, 3.5))
    axes = figure.subplots()
    lines: dict[str, list[Cell]] = {c.sampler: [] for c in cells}
    for cell in cells:
        lines[cell.sampler].append(cell)
    for name, line in lines.items():
        axes.loglog([c.steps for c in line], [c.value for c in line], marker="o", label=name)
    steps = sorted({c.steps for c in cells})
    axes.set_xticks(steps, [str(k) for k in steps], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="steps (network calls a sample)", ylabel=metric)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    save(figure, path)
