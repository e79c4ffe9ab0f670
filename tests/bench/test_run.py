import json
import subprocess
from typing import Any

import pytest

from di4c_plugin.bench.cases import LossCase
from di4c_plugin.bench.run import machine, run_case
from di4c_plugin.errors import UserError

SMALL = LossCase(vocab=30, latents=2, positions=4, hidden=4, repeats=1, threads=1)


def end(monkeypatch: pytest.MonkeyPatch, code: int, out: str = "", err: str = "") -> dict[str, Any]:
    started: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        started.update(options)
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    return started


def test_how_a_child_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    end(monkeypatch, 0, 'a library says\n{"seconds": 2.0}\n')
    assert run_case(SMALL) == {"seconds": 2.0}
    end(monkeypatch, -9)
    assert run_case(SMALL) == {"out_of_memory": "ended by the system"}
    end(monkeypatch, 0, '{"error": "no such device"}')
    with pytest.raises(UserError, match="^no such device$"):
        run_case(SMALL)
    end(monkeypatch, 130)
    with pytest.raises(KeyboardInterrupt):
        run_case(SMALL)
    end(monkeypatch, 1, err="Traceback: a bug")
    with pytest.raises(RuntimeError, match="Traceback: a bug"):
        run_case(SMALL)


@pytest.mark.slow
def test_a_real_child() -> None:
    assert run_case(SMALL)["seconds"] > 0


def test_openmp_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    started = end(monkeypatch, 0, "{}")
    run_case(SMALL)
    assert started["env"]["OMP_NUM_THREADS"] == "1"
    run_case(LossCase())
    assert started["env"]["OMP_NUM_THREADS"] == "5"


def test_the_machine_is_told() -> None:
    found = machine(SMALL)
    assert found["cpu"]
    assert found["threads"] == 1
    assert found["gpu"] is None
    json.dumps(found)
