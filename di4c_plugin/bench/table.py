"""The results as lines of a table with fixed widths, so that each can be shown when it is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from di4c_plugin.bench.cases import Case, kind_of, swept
from di4c_plugin.bench.sweep import Result

MISSING = "-"
# The heading says sizes as "name value"; of these it says nothing, or in other words.
NOT_SIZES = ("device", "dtype", "threads", "seed", "repeats", "matmul", "masked", "impl", "latent")
LEGEND = {
    "loss": [
        "MB: 10^6 bytes, the peak above inputs and parameter gradients",
        "seconds: forward and backward pass, median of {repeats}",
        "error: of loss and gradients, max|a - b| / max|b| against the naive twin in float64",
    ],
    "step": [
        "seconds: a whole update, median of {repeats}",
        "peak MB: 10^6 bytes, above weights, gradients and optimiser state; total MB: with them",
    ],
    "sample": [
        "one network call; student / teacher: median of {repeats} pairs in random order",
        "in brackets: half the distance between the quartiles",
    ],
}


@dataclass(frozen=True)
class Column:
    """A title and the text for a result and the naive twin's of the same sizes, if there is one."""

    title: str
    text: Callable[[Result, Result | None], str]


def number(name: str, form: str, *, title: str = "", scale: float = 1.0) -> Column:
    """Return a column of a measured value times `scale`."""

    def text(result: Result, naive: Result | None) -> str:
        value = result[name]
        return MISSING if value is None else format(value * scale, form)

    return Column(title or name, text)


def of_naive(name: str) -> Column:
    """Return a column of a measured value as a share of the naive twin's."""

    def text(result: Result, naive: Result | None) -> str:
        if naive is None or not naive[name] or result[name] is None:
            return MISSING
        return f"{result[name] / naive[name]:.3f}"

    return Column("/ naive", text)


def peak(result: Result, naive: Result | None) -> str:
    """Return the peak, or that memory ran out."""
    value = result["peak_mb"]
    return f"{value:.1f}" if value is not None else str(result["note"] or MISSING)


def ratio(result: Result, naive: Result | None) -> str:
    """Return the ratio of student to teacher, with its spread where there is one."""
    if result["ratio"] is None:
        return str(result["note"] or MISSING)
    spread = result["ratio_spread"]
    return f"{result['ratio']:.3f}" + ("" if spread is None else f" ({spread:.3f})")


PEAK = Column("peak MB", peak)
MEASURED: dict[str, list[Column]] = {
    "loss": [
        PEAK,
        of_naive("peak_mb"),
        number("seconds", ".3f"),
        of_naive("seconds"),
        number("max_rel_error", ".1e", title="error"),
    ],
    "step": [
        number("tokens_per_second", ".1f", title="tokens/s"),
        number("seconds", ".3f"),
        of_naive("seconds"),
        PEAK,
        of_naive("peak_mb"),
        number("total_mb", ".1f", title="total MB"),
    ],
    "sample": [
        number("teacher_seconds", ".2f", title="teacher ms", scale=1e3),
        number("student_seconds", ".2f", title="student ms", scale=1e3),
        Column("student / teacher", ratio),
    ],
}


class Table:
    """The lines of a sweep: a heading with what is fixed, the header, one for each result."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases, self.kind = cases, kind_of(cases[0])
        varying = [name for name in swept(cases) if name not in ("impl", "latent")]
        labels = [name for name in ("impl", "latent") if hasattr(cases[0], name)]
        if "latent" in labels and self.kind == "step" and "latent" not in swept(cases):
            labels.remove("latent")
        self.names = [*labels, *varying]
        self.columns = [*(plain(name) for name in self.names), *MEASURED[self.kind]]
        self.widths = [self._width(column) for column in self.columns]
        self.naive: dict[tuple[object, ...], Result] = {}
        self.notes: dict[str, None] = {}

    def _width(self, column: Column) -> int:
        """Return the width of a column: of its title, of known values, of what is measured."""
        if column.title not in self.names:
            return max(len(column.title), 13 if column is PEAK else 9)
        return max(len(column.title), *(len(shown(getattr(c, column.title))) for c in self.cases))

    def heading(self) -> str:
        """Return what all cases share."""
        case = self.cases[0]
        said = [
            f"{entry.name} {shown(getattr(case, entry.name))}"
            for entry in fields(case)
            if entry.name not in (*NOT_SIZES, *self.names)
        ]
        if hasattr(case, "masked"):
            said.append(f"{case.masked:.0%} masked")
        if self.kind == "step" and "latent" not in self.names:
            said.append(f"latent {shown(getattr(case, 'latent', None))}")
        where = [f"{case.dtype} on {case.device}"]
        where += [f"threads {case.threads}"] if case.threads else []
        where += [f"matmul {case.matmul}"] if case.matmul != "highest" else []
        return f"{self.kind}: {', '.join(said)}; {', '.join(where)}"

    def header(self) -> str:
        """Return the titles."""
        return self._line([column.title for column in self.columns])

    def row(self, result: Result) -> str:
        """Return the line of a result; ratios are to the naive twin among the earlier ones."""
        sizes = tuple(result[name] for name in self.names if name != "impl")
        if result.get("impl") == "naive":
            self.naive[sizes] = result
        if result["note"] and result["note"] != "out of memory":
            self.notes[f"no error (-): {result['note']}"] = None
        naive = self.naive.get(sizes)
        return self._line([column.text(result, naive) for column in self.columns])

    def legend(self) -> list[str]:
        """Return what the columns mean, and the notes of the results so far."""
        repeats = self.cases[0].repeats
        return [*(line.format(repeats=repeats) for line in LEGEND[self.kind]), *self.notes]

    def _line(self, cells: list[str]) -> str:
        first, *others = zip(cells, self.widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])


def plain(name: str) -> Column:
    """Return a column of a value that the case gives."""
    return Column(name, lambda result, naive: shown(result[name]))


def shown(value: object) -> str:
    """Return a case's value as text; None of blocks means all."""
    return "all" if value is None else str(value)
