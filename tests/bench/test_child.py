import io
import json
import sys
from dataclasses import asdict
from typing import Any

import pytest
import torch

from di4c_plugin.bench import child
from di4c_plugin.bench.cases import Case, LossCase, SampleCase, kind_of
from di4c_plugin.bench.child import answer, main

SMALL = LossCase(vocab=30, latents=2, positions=4, hidden=4, repeats=1)
NETWORK = SampleCase(vocab=11, positions=4, hidden=8, layers=1, heads=1, repeats=2)


def job(case: Case) -> dict[str, Any]:
    return {"kind": kind_of(case), "case": asdict(case)}


def test_it_answers_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job(NETWORK))))
    assert main() == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        *("ratio", "ratio_spread", "teacher_seconds", "student_seconds")
    }


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_want_of_memory_is_an_answer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(child, "measure_loss", fail)
    assert set(answer(job(SMALL))) == {"out_of_memory"}


def test_what_the_cpu_refuses_is_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "measure_loss", lambda *args: torch.empty(2**60))
    assert set(answer(job(SMALL))) == {"out_of_memory"}


def test_other_errors_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(child, "measure_loss", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answer(job(SMALL))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "abacus"}, "device 'abacus' cannot be used: "),
        ({"heads": 3}, "3 heads do not divide hidden size 8"),
        ({"positions": 0}, "positions must be at least 1, not 0"),
    ],
)
def test_mistakes_are_answers(values: dict[str, object], message: str) -> None:
    broken = job(NETWORK)
    broken["case"] |= values
    error = answer(broken)["error"]
    assert error.startswith(message)
    assert "\n" not in error


def test_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    child.set_up(LossCase(threads=3))
    assert seen == [3]
