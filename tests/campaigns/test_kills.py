"""Runs killed at a random moment, over and over, go on bit for bit as if nothing had been."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.campaigns.killed import HULLS
from tests.training import toy

# Where the folder is not empty, and what Lightning thinks of resuming in an epoch.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*(irpath|heckpoint directory)"),
]


def killed(hull: str, out: Path, seconds: float, repository: Path) -> bool:
    """Start or resume a run, and kill it so long after its first batch; whether it was in time."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.campaigns.killed", hull, str(out)],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n", process.communicate()[1]
    time.sleep(seconds)
    early = process.poll() is None
    process.kill()
    process.communicate()
    return early


@pytest.mark.parametrize("hull", HULLS)
@pytest.mark.parametrize(
    ("runs", "kills"), [(1, 1), pytest.param(8, 3, marks=pytest.mark.campaign)]
)
def test_a_killed_run_goes_on_exactly(
    tmp_path: Path, hull: str, runs: int, kills: int, repository: Path
) -> None:
    run, draw, early = HULLS[hull], random.Random(f"{hull} {kills}"), 0
    began = time.monotonic()
    whole = run(tmp_path / "whole", resume=False)
    seconds = time.monotonic() - began
    for number in range(runs):
        out = tmp_path / f"{number}"
        for _ in range(kills):
            early += killed(hull, out, draw.random() * seconds / kills, repository)
        assert toy.same(run(out, resume=True), whole)
        assert not list(out.glob(".*.ckpt"))
    assert early >= runs * kills / 2 or runs == 1
    sys.stdout.write(f"{hull}: {early} of {runs * kills} kills in time\n")  # shown by -s
