from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from di4c_plugin.bench.cases import Case, LossCase, StepCase
from di4c_plugin.bench.plot import check, lines, peak_plot, place, swept_axis
from di4c_plugin.errors import UserError

CASES = [
    LossCase(positions=d, latents=n, impl=i)
    for d in (4, 8)
    for n in (1, 2)
    for i in ("naive", "chunked")
]


def results(cases: list[LossCase]) -> list[dict[str, Any]]:
    return [asdict(c) | {"peak_mb": None if c.positions == 8 else 1.0 + c.latents} for c in cases]


def test_a_line_is_what_differs_in_nothing_but_the_axis() -> None:
    assert swept_axis(CASES) == "latents"
    found = lines(results(CASES), CASES)
    assert {label: [r["latents"] for r in line] for label, line in found.items()} == {
        "naive, positions 4": [1, 2],
        "chunked, positions 4": [1, 2],
        # Out of memory.
        "naive, positions 8": [],
        "chunked, positions 8": [],
    }


@pytest.mark.parametrize("done", [1, 4, 8])
def test_it_is_drawn_also_of_part_of_the_results(done: int, tmp_path: Path) -> None:
    peak_plot(results(CASES)[:done], CASES, tmp_path / "peak.png")
    assert imread(tmp_path / "peak.png").shape[2] in (3, 4)


def test_all_blocks_are_as_many_as_there_are_layers() -> None:
    cases: list[Case] = [StepCase(layers=6), StepCase(layers=6, blocks=2)]
    assert swept_axis(cases) == "blocks"
    assert [place(asdict(case), "blocks") for case in cases] == [6, 2]


def test_what_cannot_be_drawn_is_refused() -> None:
    check(CASES, Path("a.PNG"))
    with pytest.raises(UserError, match=r"a.pdf must end in .png$"):
        check(CASES, Path("a.pdf"))
    same = [CASES[0], replace(CASES[0], impl="chunked")]
    with pytest.raises(UserError, match="^--plot needs several values of a size"):
        check(same, Path("a.png"))
