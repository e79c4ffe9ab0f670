"""`di4c evaluate` as a program of its own: killed and resumed, in two processes, and repeated."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.cli import sources
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from tests.evaluation.tiny_lm import write_lm

SIZES = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 1}
PROGRAM = "import sys; from di4c_plugin.cli.main import main; sys.exit(main(sys.argv[1:]))"


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, "evaluate", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


def figures(file: Path) -> list[Any]:
    points = json.loads(file.read_text())["points"]
    return [(p["steps"], p["seed"], p["n"], p["figures"]) for p in points]


@pytest.mark.slow
def test_killed_resumed_by_two_processes_and_repeated(tmp_path: Path) -> None:
    """All equal what one process measures in one go, to the last digit."""
    torch.manual_seed(0)
    BUILTIN().new_teacher({"name": "absorbing"}, **SIZES).save(tmp_path / "A")
    write_lm(tmp_path / "lm", letters="abcdefghijklmnop", context=64)
    own = ["A", "--metric", "gen_ppl,entropy,distinct_n", "--scorer", "lm", "--steps", "1,24"]
    own += ["--samples", "400", "--batch-size", "50", "--seeds", "2", "--temperatures", ".8,1"]
    kept = tmp_path / "kept"
    killed = start(tmp_path, *own, "--shards", "kept")
    while len([*kept.rglob("*.npz")]) < 3:
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.npz")}
    assert 3 <= len(before) < 2 * 2 * 2 * 8

    whole = start(tmp_path, *own, "--json", "whole.json")
    resumed = start(
        tmp_path, *own, "--shards", "kept", "--processes", "2", "--json", "resumed.json"
    )
    assert [process.communicate() and process.returncode for process in (whole, resumed)] == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert figures(tmp_path / "resumed.json") == figures(tmp_path / "whole.json")

    repeated = start(tmp_path, "--repeat", "whole.json", "--shards", "kept", "--json", "r.json")
    out = repeated.communicate()[0]
    assert repeated.returncode == 0
    assert out.splitlines()[-1] == f"# {2 * 2 * 2 * 5} equal"
    assert figures(tmp_path / "r.json") == figures(tmp_path / "whole.json")


def _work(plain: Any, names: list[str], folder: Path, rank: int) -> None:
    """Stands in for a process that draws: the second fails at once, the first takes long."""
    if rank == 1:
        sys.exit(2)
    time.sleep(600)


def test_where_one_process_fails_the_others_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_work", _work)
    began = time.monotonic()
    with pytest.raises(UserError, match="process 2 of 2 failed"):
        sources.draw_in_processes(argparse.Namespace(processes=2), ["A"], tmp_path)
    assert time.monotonic() - began < 300
