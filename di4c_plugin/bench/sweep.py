"""Runs the cases of a sweep, each in its own process, and yields their results."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from di4c_plugin.bench.cases import Case, LossCase, kind_of
from di4c_plugin.errors import UserError

Result = dict[str, Any]
# Every kind of result has these, None where there is no value.
EMPTY: dict[str, Sequence[str]] = {
    "loss": ("peak_mb", "seconds", "max_rel_error"),
    "step": ("tokens_per_second", "seconds", "peak_mb", "total_mb"),
    "sample": ("ratio", "ratio_spread", "teacher_seconds", "student_seconds"),
}


def check_implementations(cases: Sequence[Case]) -> None:
    """Refuse unknown implementations before hours of work on others.

    Raises:
        UserError: listing those that exist.
    """
    from di4c_plugin.algorithms.di4c_terms import LOSSES
    from di4c_plugin.losses.terms import IMPLEMENTATIONS

    known = IMPLEMENTATIONS if kind_of(cases[0]) == "loss" else LOSSES
    for name in {getattr(case, "impl", "naive") for case in cases}:
        if name not in known:
            raise UserError(f"unknown implementation {name!r}; there are {', '.join(known)}")


def measure_all(cases: Sequence[Case]) -> Iterator[Result]:
    """Yield the values of each case and what was measured, under the names of `EMPTY`.

    "note" says why a value is None: out of memory, or no reference.

    Raises:
        UserError: for what only a child can find wrong.
    """
    with TemporaryDirectory() as folder:
        twin = Twin(Path(folder) / "reference.pt")
        for case in cases:
            reference, note = twin.of(case) if isinstance(case, LossCase) else (None, None)
            found = run_child(case, reference=reference)
            if "out_of_memory" in found:
                found, note = {}, "out of memory"
            empty = dict.fromkeys(EMPTY[kind_of(case)])
            yield asdict(case) | empty | found | {"note": note}


class Twin:
    """The float64 results that implementations of the same sizes are compared with, one at a time.

    They lie in a file: 100 000 x 1000 numbers of float64 are no luggage for a pipe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: LossCase | None = None
        self.reason: str | None = None

    def of(self, case: LossCase) -> tuple[Path | None, str | None]:
        """Return the file for a case, or None and the reason why there is none."""
        sizes = replace(case, impl="naive", budget_mb=1, repeats=1)
        if sizes != self.sizes:
            found = run_child(sizes, reference=self.path, write=True)
            memory = "the float64 twin ran out of memory" if "out_of_memory" in found else None
            self.sizes, self.reason = sizes, found.get("skipped", memory)
        return (self.path, None) if self.reason is None else (None, self.reason)


def run_child(case: Case, *, reference: Path | None = None, write: bool = False) -> Result:
    """Return the answer of `di4c_plugin.bench.child`, in a new process.

    Raises:
        UserError: if that is what the child says.
        RuntimeError: if it ends in any other way but for want of memory.
    """
    place = None if reference is None else str(reference)
    job = {"kind": kind_of(case), "case": asdict(case), "reference": place, "write": write}
    child = subprocess.run(
        [sys.executable, "-m", "di4c_plugin.bench.child"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env=environment(case.threads),
    )
    if child.returncode == -signal.SIGKILL:
        return {"out_of_memory": "ended by the system"}
    if child.returncode == 130:
        raise KeyboardInterrupt
    if child.returncode:
        raise RuntimeError(f"measuring {case} failed:\n{child.stderr}")
    answer: Result = json.loads(child.stdout.splitlines()[-1])
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def environment(threads: int | None) -> Mapping[str, str]:
    """Return the child's environment: OpenMP reads its number of threads once, at the start."""
    return os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
