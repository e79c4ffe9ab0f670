"""Several processes of one test module, started and waited for."""

import os
import subprocess
import sys
from pathlib import Path


def run_ranks(module: str, count: int, folder: Path, repository: Path, *, seconds: int) -> None:
    """Run `python -m MODULE FOLDER RANK` for each rank at once; all must end well in time."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(rank)],
            cwd=repository,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    for process in ranks:
        try:
            _, stderr = process.communicate(timeout=seconds)
        finally:
            process.kill()
        assert process.returncode == 0, stderr
