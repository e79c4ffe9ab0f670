import pytest

from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.evaluation.frontier import Point
from di4c_plugin.evaluation.record import compare, verdict, versions


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (Figure(2.0, 0.1), Figure(2.0 + 1e-12, 0.1), "equal"),
        (Figure(2.0), Figure(2.0), "equal"),
        (Figure(2.0, 0.3), Figure(2.9, 0.4), "agrees"),  # two errors of the difference: 1.0
        (Figure(2.0, 0.3), Figure(3.1, 0.4), "differs"),
        (Figure(2.0), Figure(2.1, 5.0), "differs"),
        (Figure(2.0), None, "missing"),
    ],
)
def test_how_two_values_go_together(before: Figure, now: Figure | None, expected: str) -> None:
    assert verdict(before, now) == expected


def test_points_are_compared_by_setting_and_seed() -> None:
    before = [Point("A", 4, None, seed, 9, {"bits": Figure(seed, 0.1)}) for seed in (0, 1, 2)]
    now = [Point("A", 4, None, seed, 9, {"bits": Figure(1.0, 0.1)}) for seed in (2, 1)]
    assert [c.verdict for c in compare(before, now)] == ["missing", "equal", "differs"]


def test_versions_name_what_figures_depend_on() -> None:
    assert {"python", "torch", "di4c_plugin", "numpy"} <= versions().keys()
