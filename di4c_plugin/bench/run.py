"""Runs a case in its own process: memory of one is not that of another, nor the user's loss."""

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from di4c_plugin.bench.cases import Case, kind_of
from di4c_plugin.errors import UserError

Result = dict[str, Any]


def run_case(case: Case) -> Result:
    """Return what was measured of a case, or {"out_of_memory": …}.

    Raises:
        UserError: for what only the child can find wrong.
        RuntimeError: if the child ends in any other way but for want of memory.
    """
    # OpenMP reads its number of threads once, at the start.
    threads = {} if case.threads is None else {"OMP_NUM_THREADS": str(case.threads)}
    child = subprocess.run(
        [sys.executable, "-m", "di4c_plugin.bench.child"],
        input=json.dumps({"kind": kind_of(case), "case": asdict(case)}),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | threads,
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


def machine(case: Case) -> dict[str, Any]:
    """Return on what, and with which versions, a case was measured."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cuda = case.device.startswith("cuda")
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": case.threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(case.device) if cuda else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "di4c_plugin": metadata.version("di4c_plugin"),
    }
