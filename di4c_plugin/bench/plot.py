"""Peak memory against what is swept, as a PNG file."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from di4c_plugin.bench.cases import Case, swept
from di4c_plugin.bench.sweep import Result
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.pictures import save

AXES = ("latents", "positions", "vocab", "hidden", "batch", "layers", "blocks")


def swept_axis(cases: Sequence[Case]) -> str:
    """Return the size to plot against, the first of `AXES` that differs between the cases.

    Raises:
        UserError: if none does.
    """
    names = [name for name in AXES if name in swept(cases)]
    if not names:
        raise UserError("--plot needs several values of a size, for example --latents 4,16,64")
    return names[0]


def check(cases: Sequence[Case], path: Path) -> None:
    """Raise UserError for what `peak_plot` would refuse, before anything is measured."""
    swept_axis(cases)
    if path.suffix.lower() != ".png":
        raise UserError(f"pictures are PNG files: {path} must end in .png")


def lines(results: Sequence[Result], cases: Sequence[Case]) -> dict[str, list[Result]]:
    """Return the results of each line: the same in all that is swept, but for the axis."""
    axis = swept_axis(cases)
    others = [name for name in swept(cases) if name not in (axis, "impl")]
    found: dict[str, list[Result]] = {}
    for result in results:
        label = ", ".join([result["impl"], *(f"{name} {result[name]}" for name in others)])
        # Where memory ran out there is no point.
        found.setdefault(label, []).extend([result] if result["peak_mb"] is not None else [])
    return found


def place(result: Result, axis: str) -> int:
    """Return where a result lies on the axis; a latent that enters all blocks enters `layers`."""
    value: int | None = result[axis]
    return result["layers"] if value is None else value


def peak_plot(results: Sequence[Result], cases: Sequence[Case], path: Path) -> None:
    """Draw the peak in MB, one line for each implementation, both axes logarithmic."""
    axis = swept_axis(cases)
    figure = Figure(figsize=(5, 3.5))
    axes = figure.subplots()
    for label, line in lines(results, cases).items():
        x, y = [place(r, axis) for r in line], [r["peak_mb"] for r in line]
        axes.loglog(x, y, marker="o", label=label)
    values = sorted({place(result, axis) for result in results})
    axes.set_xticks(values, [str(value) for value in values], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=axis, ylabel="peak MB")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    save(figure, path)
