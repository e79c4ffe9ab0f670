import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from di4c_plugin.evaluation.figures import Figure, mean_figure, pooled, ratio_figure
from di4c_plugin.evaluation.frontier import (
    Point,
    against_first,
    interpolated,
    matched,
    only_entropy,
    rows,
)
from di4c_plugin.evaluation.frontier_plot import frontier_plot

import torch  # isort: skip


def point(model: str, swept: float, seed: int, entropy: float, gen_ppl: float) -> Point:
    figures = {"gen_ppl": Figure(gen_ppl), "entropy": Figure(entropy)}
    return Point(model, 4, swept, seed, 10, figures, {"ms_per_sample": 2.0 + seed, "device": "cpu"})


def line(model: str, factor: float, shift: float = 0.0) -> list[Point]:
    """gen-PPL = factor exp(2 entropy), with a share of it as the seed's own."""
    return [
        point(model, T, seed, h, factor * (1 + 0.1 * seed) * math.exp(2 * h))
        for seed in (0, 1)
        for T, h in ((0.8, 4.0 + shift), (1.0, 5.0 + shift))
    ]


def test_between_two_points_and_outside() -> None:
    curve = [(3.0, 1.0), (1.0, 5.0), (2.0, 3.0)]
    assert interpolated(curve, 1.5) == 4
    assert interpolated(curve, 2) == 3
    assert interpolated(curve, 0.9) is None
    assert interpolated([(1.0, 2.0)], 1.0) == 2
    assert interpolated([(1.0, 2.0), (1.0, 4.0)], 1.0) == 3


def test_a_line_in_log_gen_ppl_is_met_and_models_are_paired_by_seed() -> None:
    points = line("A", 1) + line("B", 0.5, shift=0.25)
    a, b = matched(points, 4.6)
    values = [math.log(1 + 0.1 * seed) + 2 * 4.6 for seed in (0, 1)]
    assert a.figure is not None
    assert a.figure.value == pytest.approx(math.exp(sum(values) / 2))
    assert a.difference is None
    # The share of a seed is common to both models: the paired difference has no error left.
    assert b.difference is not None
    assert b.difference.value == pytest.approx(math.log(0.5))
    assert b.difference.error == pytest.approx(0, abs=1e-12)
    assert b.reached == (4.25, 5.25)


def test_an_entropy_out_of_reach_is_none() -> None:
    a, b = matched(line("A", 1) + line("B", 1, shift=1), 4.5)
    assert a.figure is not None
    assert (b.figure, b.difference, b.missing) == (None, None, 2)


def test_no_difference_is_made_of_the_seeds_that_happen_to_reach_an_entropy() -> None:
    second = [point("B", T, 1, h, 1.0) for T, h in ((0.8, 4.7), (1.0, 5.0))]
    a, b = matched(line("A", 1) + line("B", 1)[:2] + second, 4.6)
    assert (a.missing, b.missing, b.reached) == (0, 1, (4.0, 5.0))
    assert (b.figure, b.difference) == (None, None)


def test_a_model_that_only_lowers_entropy_is_named() -> None:
    """B is on A's curve at lower entropy; C is below the curve."""
    b = [point("B", T, s, h, math.exp(2 * h)) for s in (0, 1) for T, h in ((1.0, 4.2), (1.1, 5))]
    c = line("C", 0.5, shift=-0.25)
    a = [point("A", T, s, h, math.exp(2 * h)) for s in (0, 1) for T, h in ((0.8, 4.0), (1.0, 5))]
    points = a + b + c
    (said,) = only_entropy(points, matched(points, 4.5), 1.0)
    assert said.startswith("B at 4 steps: gen_ppl 4447 is lower than 2.203e+04 of A, but not by tw")


def test_a_model_of_higher_entropy_does_not_gain_by_low_entropy() -> None:
    """At T = 1 B has more entropy and lower gen-PPL than A; at equal entropy it is worse."""
    a = [point("A", T, s, h, p) for s in (0, 1) for T, h, p in ((0.8, 4.0, 10.0), (1.0, 5.0, 90))]
    b = [point("B", T, s, h, p) for s in (0, 1) for T, h, p in ((1.0, 5.1, 80.0), (0.7, 4.4, 79))]
    results = matched(a + b, 4.5)
    assert results[1].difference is not None
    assert results[1].difference.value > 0
    assert only_entropy(a + b, results, 1.0) == []


def test_a_model_against_the_first_in_more_steps_at_its_own_entropy() -> None:
    """The first model's gen-PPL at entropy h in k steps is exp(2 h) / k; B has a third of it."""

    def at(model: str, steps: int, T: float, seed: int, h: float, factor: float = 1) -> Point:
        ppl = factor * (1 + 0.1 * seed) * math.exp(2 * h) / steps
        return replace(point(model, T, seed, h, ppl), steps=steps)

    first = [at("A", k, T, s, h) for k in (2, 4) for s in (0, 1) for T, h in ((0.8, 4), (1.0, 5))]
    own = [
        at("B", 2, T, s, h + 0.2 * s, 1 / 3) for s in (0, 1) for T, h in ((0.8, 4.1), (1.0, 4.4))
    ]
    (found,) = against_first(first + own, 1.0)
    assert (found.model, found.steps, found.column) == ("B", 2, "gen_ppl")
    same, twice, fourfold = (found.differences[k] for k in (1, 2, 4))
    assert same is not None
    assert same.value == pytest.approx(math.log(1 / 3))
    assert same.error == pytest.approx(0, abs=1e-12)
    assert twice is not None
    assert twice.value == pytest.approx(math.log(2 / 3))
    assert fourfold is None  # not drawn
    higher = [at("B", 2, 1.0, s, 4.9 + 0.2 * s) for s in (0, 1)]
    (found,) = against_first(first + higher, 1.0)
    assert found.differences[2] is None  # the second seed's entropy is out of reach


def test_rows_pool_seeds() -> None:
    first, second = rows(line("A", 1))
    assert (first.model, first.steps, first.swept) == ("A", 4, 0.8)
    expected = [math.exp(8), 1.1 * math.exp(8)]
    assert first.figures["gen_ppl"] == mean_figure(expected)
    assert first.cost == {"ms_per_sample": 2.5, "device": "cpu"}
    assert second.swept == 1


def test_figures() -> None:
    assert mean_figure([1.0, 3.0]) == Figure(2, 1, 2)
    assert mean_figure([1.0]) == Figure(1, None, 1)
    one = Figure(5, 0.5, 30)
    assert pooled([one]) is one
    totals, counts = torch.tensor([2.0, 4.0]).double(), torch.tensor([1.0, 2.0]).double()
    assert ratio_figure(totals, counts) == Figure(2, 0, 2)


@pytest.mark.parametrize("swept", [None, "guidance"])
def test_the_picture_has_a_curve_for_each_model(swept: str | None, tmp_path: Path) -> None:
    points = line("A", 1) + line("B", 0.5)
    if swept is None:
        frontier_plot(rows(points), tmp_path / "a.png", at=4.5)
    else:
        plain = [Point(p.model, 4, p.swept, p.seed, 1, {"fid": Figure(3)}) for p in points]
        frontier_plot(rows(plain), tmp_path / "a.png", swept=swept)
    with Image.open(tmp_path / "a.png") as picture:
        colours = {c for _, c in picture.convert("RGB").getcolors(maxcolors=10**6) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # the first two of matplotlib
