import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from di4c_plugin.evaluation.report import by_sampler, rows, write_json
from di4c_plugin.evaluation.sweep import Cell

CELLS = [
    Cell(name, steps, value, seconds, torch.zeros(2, 4, dtype=torch.long))
    for name, steps, value, seconds in [
        ("teacher", 1, 80.25, 0.001),
        ("student", 1, 20.0, 0.0025),
        ("teacher", 16, 9.96, 0.02),
        ("student", 16, 8.0, 0.03),
    ]
]


def test_values_go_by_sampler_and_steps_as_text() -> None:
    assert by_sampler(CELLS, lambda cell: cell.value) == {
        "teacher": {"1": 80.25, "16": 9.96},
        "student": {"1": 20.0, "16": 8.0},
    }


def test_the_table_has_a_row_for_each_number_of_steps() -> None:
    assert rows(CELLS) == [
        ["steps", "teacher FD", "student FD", "teacher ms", "student ms"],
        ["1", "80.2", "20.0", "1.00", "2.50"],
        ["16", "10.0", "8.0", "20.00", "30.00"],
    ]


def test_what_was_not_measured_is_empty() -> None:
    assert rows(CELLS[:3])[1:] == [
        ["1", "80.2", "20.0", "1.00", "2.50"],
        ["16", "10.0", "", "20.00", ""],
    ]


def test_peak_memory_counts_what_is_already_gone() -> None:
    source = (
        "from di4c_plugin.evaluation.report import peak_rss_mb; "
        "large = b'x' * 900_000_000; del large; print(peak_rss_mb())"
    )
    peak = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, check=True)
    assert 900 < float(peak.stdout) < 1800


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"fd": {"1": 2.5}})
    with pytest.raises(TypeError):
        write_json(path, {"fd": object()})
    assert json.loads(path.read_text()) == {"fd": {"1": 2.5}}
    assert list(tmp_path.iterdir()) == [path]
