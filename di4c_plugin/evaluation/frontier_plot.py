"""Quality against entropy, the swept option or steps, several models in one picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from di4c_plugin.evaluation.frontier import ENTROPY, LOGARITHMIC, Row
from di4c_plugin.evaluation.pictures import save

MARKERS = "os^Dv<>Pp*"


def frontier_plot(
    rows: Sequence[Row], path: Path, *, swept: str | None = None, at: float | None = None
) -> None:
    """Draw one panel for each value: a colour for each model, a marker for each number of steps.

    The values of a sweep are joined. The x axis is the entropy where it is measured, else the swept
    option, and without a sweep the steps. Bars are standard errors.

    Args:
        rows: the values.
        path: a PNG file.
        swept: name of the swept option; None without one.
        at: an entropy to mark.

    Raises:
        UserError: for a path that does not end in .png, and when the system refuses.
    """
    columns = list(rows[0].figures)
    over = ENTROPY if ENTROPY in columns and len(columns) > 1 else swept
    columns = [name for name in columns if name != over]
    figure = Figure(layout="constrained")
    for axes, name in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        _panel(axes, rows, name, over)
        axes.set(xlabel={ENTROPY: "entropy (nats)", None: "steps"}.get(over, over), ylabel=name)
        if at is not None and over == ENTROPY:
            axes.axvline(at, color="grey", linestyle=":", linewidth=1)
        if name in LOGARITHMIC:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(True, which="major", alpha=0.3)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    legend = 0.2 * ((len(labels) + 1) // 2)  # inches, below the panels
    figure.set_size_inches(6 * len(columns), 3.6 + legend)
    figure.legend(lines, labels, fontsize="small", loc="outside lower center", ncols=2)
    save(figure, path)


def _panel(axes: Axes, rows: Sequence[Row], name: str, over: str | None) -> None:
    models = list(dict.fromkeys(r.model for r in rows))
    steps = list(dict.fromkeys(r.steps for r in rows))
    for number, model in enumerate(models):
        of_model = [r for r in rows if r.model == model]
        lines = (
            [of_model] if over is None else [[r for r in of_model if r.steps == k] for k in steps]
        )
        for line in filter(None, lines):
            k = line[0].steps
            count = f"{k} step{'' if k == 1 else 's'}"
            label = model if over is None or k is None else f"{model}, {count}"
            marker = "o" if over is None else MARKERS[steps.index(k) % len(MARKERS)]
            points = sorted(zip((_x(r, over) for r in line), line, strict=True), key=lambda p: p[0])
            axes.errorbar(
                [x for x, _ in points],
                [r.figures[name].value for _, r in points],
                yerr=[r.figures[name].error or 0 for _, r in points],
                xerr=[_error(r, over) for _, r in points],
                color=f"C{number % 10}",
                marker=marker,
                markersize=4,
                linewidth=1,
                label=label,
            )


def _x(row: Row, over: str | None) -> float:
    if over == ENTROPY:
        return row.figures[ENTROPY].value
    return float((row.steps if over is None else row.swept) or 0)


def _error(row: Row, over: str | None) -> float:
    return row.figures[ENTROPY].error or 0 if over == ENTROPY else 0
