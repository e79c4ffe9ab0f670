"""Pictures of samples and of quality against steps, as PNG files.

matplotlib's object interface needs no display and no global state; pictures that are bytes already
are written by Pillow, pixel by pixel.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.sweep import Cell
from di4c_plugin.files import atomic_write

# Small pictures are enlarged, by an integer factor, up to SIDE pixels; rows of WIDE ones are short.
SIDE, WIDE, WHITE = 64, 128, 255


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically; raises UserError for a path that does not end in .png."""
    check_png(path)
    FigureCanvasAgg(figure)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")


def check_png(path: Path) -> None:
    """Refuse a path that does not end in .png; raises UserError."""
    if path.suffix.lower() != ".png":
        raise UserError(f"pictures are PNG files: {path} must end in .png")


def tile(images: Tensor, columns: int, blank: int = 0) -> NDArray[Any]:
    """Lay images (n, H, W) or (n, H, W, C) out in rows of `columns`; `blank` fills the last row."""
    columns = min(columns, len(images))
    padding = images.new_full((-len(images) % columns, *images.shape[1:]), blank)
    grid = torch.cat([images, padding]).unflatten(0, (-1, columns)).transpose(1, 2)
    return grid.flatten(2, 3).flatten(0, 1).numpy()


def image_grid(
    images: Tensor, path: Path, *, levels: int = 256, columns: int | None = None
) -> None:
    """Draw images in rows of `columns`, by default 16, or 8 of wide ones.

    Args:
        images: grey levels 0 ... levels - 1, (n, H, W), drawn dark on light; or pictures
            (n, C, H, W), uint8, C = 1 or 3, drawn as they are.
        path: a PNG file.
        levels: of the grey levels.
        columns: number of images in a row.

    Raises:
        UserError: for a path that does not end in .png, and when the system refuses.
    """
    columns = columns or usual_columns(images)
    if images.ndim == 4:
        save_picture(sheet(images, columns), path)
        return
    framed = pad(images, (1, 1, 1, 1))
    grid = tile(framed, columns)
    figure = Figure(
        figsize=(grid.shape[1] / framed.shape[2] / 2, grid.shape[0] / framed.shape[1] / 2)
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid, cmap="gray_r", vmin=0, vmax=levels - 1)
    axes.set_axis_off()
    save(figure, path)


def usual_columns(images: Tensor) -> int:
    """Return the number of images (n, ..., H, W) in a row."""
    return 16 if images.shape[-1] < WIDE else 8


def sheet(images: Tensor, columns: int) -> Image.Image:
    """Return pictures (n, C, H, W), uint8, C = 1 or 3, as one, in frames of a white pixel each.

    Small ones are enlarged, and their frames with them.
    """
    factor = max(1, SIDE // max(images.shape[-2:]))
    framed = pad(images, (1, 1, 1, 1), value=WHITE)
    big = framed.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    return _picture(tile(big.movedim(1, -1), columns, blank=WHITE))


def _picture(pixels: NDArray[Any]) -> Image.Image:
    """Return bytes (H, W, C), C = 1 or 3, as a picture."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, atomically; raises UserError for a path without .png."""
    check_png(path)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def check_empty(folder: Path) -> None:
    """Refuse a folder that is not empty; raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: pictures go to a folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: the pictures would mix with what is there")


def write_pictures(batches: Iterable[Tensor], folder: Path) -> None:
    """Write pictures (B, C, H, W), uint8, C = 1 or 3, as 0.png, 1.png, ..., as they are.

    Raises:
        UserError: if the folder is not empty, and when the system refuses.
    """
    check_empty(folder)
    count = 0
    for images in batches:
        for image in images.movedim(1, -1).numpy():
            save_picture(_picture(image), folder / f"{count}.png")
            count += 1


def sample_sheet(
    cells: Sequence[Cell], shape: tuple[int, int], path: Path, *, levels: int, per_cell: int = 10
) -> None:
    """Draw samples of every cell: one row for each number of steps, one column for each sampler."""
    names = list(dict.fromkeys(c.sampler for c in cells))
    steps = list(dict.fromkeys(c.steps for c in cells))
    figure = Figure(figsize=(5 * len(names), 0.55 * len(steps) + 0.4))
    axes = figure.subplots(len(steps), len(names), squeeze=False)
    done = {(cell.sampler, cell.steps) for cell in cells}
    for row, column in itertools.product(range(len(steps)), range(len(names))):
        if row == 0:
            axes[row][column].set_title(names[column])
        if (names[column], steps[row]) not in done:
            axes[row][column].set_axis_off()
    for cell in cells:
        row, column = steps.index(cell.steps), names.index(cell.sampler)
        ax = axes[row][column]
        # A margin tells neighbours apart.
        images = pad(cell.samples[:per_cell].view(-1, *shape), (1, 1, 1, 1))
        ax.imshow(tile(images, per_cell), cmap="gray_r", vmin=0, vmax=levels - 1)
        ax.set(xticks=[], yticks=[])
        if column == 0:
            ax.set_ylabel(f"{cell.steps}", rotation=0, ha="right", va="center")
    save(figure, path)


def sample_rows(
    rows: Mapping[str, Tensor], shape: tuple[int, int], path: Path, *, levels: int
) -> None:
    """Draw samples (n, D) in a row for each name, which stands beside it."""
    figure = Figure(figsize=(6, 0.55 * len(rows)))
    axes = figure.subplots(len(rows), squeeze=False)
    for ax, (name, samples) in zip(axes[:, 0], rows.items(), strict=True):
        images = pad(samples.view(-1, *shape), (1, 1, 1, 1))
        ax.imshow(tile(images, len(images)), cmap="gray_r", vmin=0, vmax=levels - 1)
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
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
    label_axes(axes, {c.steps for c in cells}, [c.value for c in cells])
    axes.set(xlabel="steps (network calls a sample)", ylabel=metric)
    axes.legend()
    save(figure, path)


def label_axes(axes: Any, x: Collection[float], y: Collection[float]) -> None:
    """Write numbers at a plot's two logarithmic axes: at each x, and at round values about the y.

    Where some y is not above 0 its axis is made linear.
    """
    axes.set_xticks(sorted(x), [f"{value:g}" for value in sorted(x)], minor=False)
    axes.set_xticks([], minor=True)
    if y and min(y) <= 0:
        axes.set_yscale("linear")
    else:
        axes.yaxis.set_major_locator(FixedLocator(round_values(*axes.get_ylim())))
        axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3)


def round_values(low: float, high: float) -> list[float]:
    """Return round values within a range, at least two, evenly on a logarithmic axis if it can."""
    for locator in (LogLocator(subs=(1, 2, 5)), MaxNLocator(4, steps=[1, 2, 5, 10])):
        ticks = [float(v) for v in locator.tick_values(low, high) if low <= v <= high]
        if len(ticks) > 1:
            break
    return ticks
