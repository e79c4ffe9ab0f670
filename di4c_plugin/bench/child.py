"""Measures one case in a process of its own: {"kind": …, "case": {…}} on stdin, a result on stdout.

The result is what the measurement returns, or {"error": …} for a mistake of the user, or
{"out_of_memory": …}. Started by `di4c_plugin.bench.run`.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, cast

import torch

from di4c_plugin.bench.cases import CASES, Case, LossCase, SampleCase, UpdateCase
from di4c_plugin.bench.loss import measure_loss
from di4c_plugin.bench.networks import measure_sample, measure_update
from di4c_plugin.errors import UserError, is_of_memory, reason


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job; see the module."""
    try:
        case = CASES[job["kind"]](**job["case"])
        set_up(case)
        return measure(case)
    except UserError as error:
        return {"error": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        return {"out_of_memory": str(error)}


def set_up(case: Case) -> None:
    """Set threads; raises UserError for a device that is not there."""
    try:
        torch.empty(0, device=case.device)
        if case.device.startswith("cuda:"):
            torch.cuda.set_device(case.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {case.device!r} cannot be used: {reason(error)}") from error
    if case.threads is not None:
        torch.set_num_threads(case.threads)


def measure(case: Case) -> dict[str, Any]:
    """Measure by the kind of case."""
    if isinstance(case, LossCase):
        return measure_loss(case)
    if isinstance(case, UpdateCase):
        return measure_update(case)
    return measure_sample(cast(SampleCase, case))


def main() -> int:
    """Answer stdin's job on stdout."""
    # Where memory runs out, the system is to end this process, not the one that started it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
