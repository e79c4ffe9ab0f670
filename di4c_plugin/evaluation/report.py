"""The outcome of a sweep as plain values and as a table."""

import json
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from di4c_plugin.evaluation.sweep import Cell
from di4c_plugin.files import atomic_write

STATUS = Path("/proc/self/status")


def by_sampler(
    cells: Sequence[Cell], value: Callable[[Cell], float]
) -> dict[str, dict[str, float]]:
    """Return {sampler: {steps: value}}, steps as text, as JSON requires of keys."""
    table: dict[str, dict[str, float]] = {}
    for cell in cells:
        table.setdefault(cell.sampler, {})[str(cell.steps)] = value(cell)
    return table


def rows(cells: Sequence[Cell]) -> list[list[str]]:
    """Return a table as text, header first: steps, then distances and milliseconds a sample.

    What was not measured is empty.
    """
    names = list(dict.fromkeys(cell.sampler for cell in cells))
    by_setting = {(cell.sampler, cell.steps): cell for cell in cells}
    header = ["steps", *(f"{name} FD" for name in names), *(f"{name} ms" for name in names)]
    table = [header]
    for steps in dict.fromkeys(cell.steps for cell in cells):
        line = [by_setting.get((name, steps)) for name in names]
        fds = ["" if c is None else f"{c.value:.1f}" for c in line]
        times = ["" if c is None else f"{c.seconds * 1e3:.2f}" for c in line]
        table.append([str(steps), *fds, *times])
    return table


def peak_rss_mb() -> float:
    """Return the most memory this process has held, in MB (10^6 bytes)."""
    return resident_peak() / 1e6


def resident_peak() -> int:
    """Return the most memory this process has held, in bytes."""
    if STATUS.exists():
        # On Linux `ru_maxrss` starts from the peak of the process that started this one.
        return status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status_bytes(name: str) -> int:
    """Return an entry of /proc/self/status, in bytes."""
    lines = STATUS.read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
