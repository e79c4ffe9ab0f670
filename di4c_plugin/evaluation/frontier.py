"""Points of quality against entropy, pooled over seeds, and compared at equal entropy.

A lower temperature makes samples likelier and less varied, so that a method can look better by
lower entropy alone. Each model's curve over temperatures is therefore read at one entropy: between
the two neighbouring temperatures, log gen-PPL (other values as they are) is linear in the entropy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from di4c_plugin.evaluation.figures import Figure, mean_figure, pooled

ENTROPY = "entropy"
LOGARITHMIC = ("gen_ppl",)
TIMES = (1, 2, 4)  # as many steps of the first model as of another


@dataclass(frozen=True)
class Point:
    """The measurements of one source at one setting.

    Attributes:
        model: as the user named it; may be a file of samples.
        steps: of the sampler; None for a file.
        swept: value of the swept option, such as the temperature; None without one.
        seed: of the draws; None for a file.
        n: number of samples.
        figures: by column.
        cost: see `shards.cost`; empty for a file.
    """

    model: str
    steps: int | None
    swept: float | None
    seed: int | None
    n: int
    figures: Mapping[str, Figure]
    cost: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> tuple[str, int | None, float | None]:
        """All but the seed."""
        return self.model, self.steps, self.swept


@dataclass(frozen=True)
class Row:
    """The points of one setting, over seeds."""

    model: str
    steps: int | None
    swept: float | None
    figures: Mapping[str, Figure]
    cost: Mapping[str, Any]

    @property
    def setting(self) -> tuple[str, int | None, float | None]:
        """The key of the row."""
        return self.model, self.steps, self.swept


@dataclass(frozen=True)
class Matched:
    """A value at a given entropy.

    Attributes:
        model: its name.
        steps: of the sampler.
        column: name of the value.
        figure: over seeds; None where the curve of a seed does not reach that entropy.
        difference: from the first model at as many steps, paired by seed; for gen_ppl in natural
            logarithms. None for the first model, and where either is missing.
        missing: how many seeds do not reach that entropy.
        reached: the least and the largest entropy over all seeds.
    """

    model: str
    steps: int | None
    column: str
    figure: Figure | None
    difference: Figure | None
    missing: int
    reached: tuple[float, float]


def rows(points: Sequence[Point]) -> list[Row]:
    """Return one row for each setting, in order."""
    grouped: dict[tuple[str, int | None, float | None], list[Point]] = {}
    for point in points:
        grouped.setdefault(point.setting, []).append(point)
    return [row(group) for group in grouped.values()]


def row(group: Sequence[Point]) -> Row:
    """Return the row of points that differ by their seeds only."""
    first = group[0]
    figures = {name: pooled([p.figures[name] for p in group]) for name in first.figures}
    cost = {
        name: sum(p.cost[name] for p in group) / len(group)
        if isinstance(value, int | float)
        else value
        for name, value in first.cost.items()
    }
    return Row(*first.setting, figures, cost)


def interpolated(curve: Sequence[tuple[float, float]], at: float) -> float | None:
    """Return y at x = `at` on the broken line through points (x, y); None outside of it."""
    line = sorted(curve)
    if len(line) == 1 and line[0][0] == at:
        return line[0][1]
    for (x_0, y_0), (x_1, y_1) in pairwise(line):
        if x_0 <= at <= x_1:
            share = (at - x_0) / (x_1 - x_0) if x_1 > x_0 else 0.5
            return y_0 + share * (y_1 - y_0)
    return None


def matched(points: Sequence[Point], at: float) -> list[Matched]:
    """Return every value but the entropy at entropy `at`, for each model and number of steps."""
    curves: dict[tuple[str, int | None], list[Point]] = {}
    for point in points:
        if point.seed is not None:
            curves.setdefault((point.model, point.steps), []).append(point)
    columns = [name for name in points[0].figures if name != ENTROPY]
    values = {
        (k, name): _by_seed(curve, name, at) for k, curve in curves.items() for name in columns
    }
    baseline = next(iter(curves), ("", None))[0]
    results = []
    for (model, steps), curve in curves.items():
        entropies = [p.figures[ENTROPY].value for p in curve]
        for name in columns:
            by_seed = values[(model, steps), name]
            reference = values.get(((baseline, steps), name), {})
            missing = len({p.seed for p in curve}) - len(by_seed)
            figure = None if missing else mean_figure([*by_seed.values()])
            difference = None
            if figure is not None and model != baseline and by_seed.keys() <= reference.keys():
                difference = mean_figure([by_seed[s] - reference[s] for s in by_seed])
            if figure is not None and name in LOGARITHMIC:
                figure = _exp(figure)
            reached = min(entropies), max(entropies)
            results.append(Matched(model, steps, name, figure, difference, missing, reached))
    return results


@dataclass(frozen=True)
class Against:
    """A value of a model minus the first model's at the entropy of that model's own samples.

    Attributes:
        model: its name.
        steps: of the sampler.
        column: name of the value; of gen_ppl, differences are of natural logarithms.
        differences: by how many times as many steps the first model takes; paired by seed. None
            where its curve in so many steps is not there, or does not reach the entropy of a seed.
    """

    model: str
    steps: int | None
    column: str
    differences: dict[int, Figure | None]


def against_first(points: Sequence[Point], plain: float | None) -> list[Against]:
    """Compare each further model with the first one in 1, 2 and 4 times as many steps.

    Args:
        points: of models; the first one's over temperatures, for its curves.
        plain: the value of the swept option at which the others are measured, 1 of temperatures.
    """
    drawn = [p for p in points if p.seed is not None and p.steps is not None]
    first = next((p.model for p in drawn), "")
    columns = [name for name in points[0].figures if name != ENTROPY]
    results = []
    for model, steps in dict.fromkeys((p.model, p.steps) for p in drawn if p.model != first):
        own = [p for p in drawn if (p.model, p.steps, p.swept) == (model, steps, plain)]
        for name in columns if own else ():
            differences = {
                times: _difference(own, [p for p in drawn if p.model == first], times, name)
                for times in TIMES
            }
            results.append(Against(model, steps, name, differences))
    return results


def _difference(
    own: Sequence[Point], first: Sequence[Point], times: int, name: str
) -> Figure | None:
    """Return the mean over seeds of own values minus those of the first model; None: some lack."""
    found = []
    for point in own:
        assert point.steps is not None
        curve = [p for p in first if (p.steps, p.seed) == (times * point.steps, point.seed)]
        reference = _by_seed(curve, name, point.figures[ENTROPY].value).get(point.seed or 0)
        if reference is None:
            return None
        found.append(_scaled(point.figures[name].value, name) - reference)
    return mean_figure(found)


def _by_seed(curve: Sequence[Point], name: str, at: float) -> dict[int, float]:
    """Return the (log) value at entropy `at` for each seed whose curve reaches it."""
    values = {}
    for seed in dict.fromkeys(p.seed for p in curve if p.seed is not None):
        line = [
            (p.figures[ENTROPY].value, _scaled(p.figures[name].value, name))
            for p in curve
            if p.seed == seed
        ]
        value = interpolated(line, at)
        if value is not None:
            values[seed] = value
    return values


def _scaled(value: float, name: str) -> float:
    return math.log(value) if name in LOGARITHMIC else value


def _exp(figure: Figure) -> Figure:
    value = math.exp(figure.value)
    return Figure(value, None if figure.error is None else value * figure.error, figure.n)


def only_entropy(
    points: Sequence[Point], results: Sequence[Matched], plain: float | None
) -> list[str]:
    """Return a sentence for each model that looks better than the first one only by low entropy.

    That is: with equal steps, where the swept option has the value `plain` (1 of temperatures, None
    if nothing is swept), its gen_ppl or bits and its entropy are lower; at equal entropy they are
    not, by two standard errors if these are known.
    """
    raw = {r.setting: r.figures for r in rows(points)}
    first = next((p.model for p in points if p.seed is not None), "")
    sentences = []
    for entry in results:
        if entry.difference is None or entry.column not in ("gen_ppl", "bits"):
            continue
        values, base = (raw.get((model, entry.steps, plain)) for model in (entry.model, first))
        if values is None or base is None:
            continue
        lower = all(values[name].value < base[name].value for name in (entry.column, ENTROPY))
        better = entry.difference.value < -2 * (entry.difference.error or 0)
        if lower and not better:
            sentences.append(
                f"{entry.model} at {entry.steps} steps: {entry.column} "
                f"{values[entry.column].value:.4g} is lower than {base[entry.column].value:.4g} of "
                f"{first}, but not by two standard errors at equal entropy: what it gains is lower "
                f"entropy ({values[ENTROPY].value:.3f}, {base[ENTROPY].value:.3f})"
            )
    return sentences
