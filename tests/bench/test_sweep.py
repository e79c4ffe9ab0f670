import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.bench import sweep
from di4c_plugin.bench.cases import Case, LossCase, StepCase
from di4c_plugin.bench.sweep import (
    EMPTY,
    check_implementations,
    environment,
    measure_all,
    run_child,
)
from di4c_plugin.errors import UserError

SMALL = LossCase(vocab=30, latents=2, positions=4, hidden=4, repeats=1, threads=1)
VALUES = {"peak_mb": 1.0, "seconds": 2.0, "max_rel_error": 3.0}


class Children:
    """Stands in for `run_child`; answers are by implementation, "reference" for the twin."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.started: list[tuple[str, int, Path | None]] = []

    def __call__(
        self, case: Case, *, reference: Path | None = None, write: bool = False
    ) -> dict[str, Any]:
        assert isinstance(case, LossCase | StepCase)
        name = "reference" if write else case.impl
        self.started.append((name, case.latents, reference))
        return self.answers.get(name, {} if write else dict(VALUES))


def start(monkeypatch: pytest.MonkeyPatch, **answers: dict[str, Any]) -> Children:
    children = Children(**answers)
    monkeypatch.setattr(sweep, "run_child", children)
    return children


def test_one_reference_serves_all_implementations_of_the_same_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children = start(monkeypatch)
    cases = [replace(SMALL, latents=n, impl=i) for n in (1, 2) for i in ("naive", "chunked")]
    results = list(measure_all(cases))
    assert [started[:2] for started in children.started] == [
        *(("reference", 1), ("naive", 1), ("chunked", 1)),
        *(("reference", 2), ("naive", 2), ("chunked", 2)),
    ]
    assert len({path for *_, path in children.started}) == 1
    assert results == [asdict(case) | VALUES | {"note": None} for case in cases]


def test_want_of_memory_is_a_row_and_the_next_case_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start(monkeypatch, naive={"out_of_memory": "ended by the system"})
    naive, chunked = measure_all([replace(SMALL, impl="naive"), SMALL])
    assert naive["note"] == "out of memory"
    assert [naive[name] for name in EMPTY["loss"]] == [None] * 3
    assert chunked["peak_mb"] == 1


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ({"skipped": "no room"}, "no room"),
        ({"out_of_memory": ""}, "the float64 twin ran out of memory"),
    ],
)
def test_without_a_reference_there_is_a_reason(
    answer: dict[str, str], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = start(monkeypatch, reference=answer, chunked=VALUES | {"max_rel_error": None})
    (result,) = measure_all([SMALL])
    assert result["note"] == note
    assert children.started[-1] == ("chunked", 2, None)


def test_an_update_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    children = start(monkeypatch)
    list(measure_all([StepCase()]))
    assert children.started == [("chunked", 16, None)]


def end(monkeypatch: pytest.MonkeyPatch, code: int, out: str = "", err: str = "") -> None:
    monkeypatch.setattr(
        subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code, out, err)
    )


def test_how_a_child_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    end(monkeypatch, 0, f"a library says\n{json.dumps(VALUES)}\n")
    assert run_child(SMALL) == VALUES
    end(monkeypatch, -9)
    assert run_child(SMALL) == {"out_of_memory": "ended by the system"}
    end(monkeypatch, 0, '{"error": "no such device"}')
    with pytest.raises(UserError, match="^no such device$"):
        run_child(SMALL)
    end(monkeypatch, 130)
    with pytest.raises(KeyboardInterrupt):
        run_child(SMALL)
    end(monkeypatch, 1, err="Traceback: a bug")
    with pytest.raises(RuntimeError, match="Traceback: a bug"):
        run_child(SMALL)


def test_a_real_child() -> None:
    found = run_child(SMALL)
    assert found["seconds"] > 0
    assert found["max_rel_error"] is None


def test_openmp_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(2)["OMP_NUM_THREADS"] == "2"
    assert environment(None)["OMP_NUM_THREADS"] == "5"


def test_unknown_implementations_are_refused_at_once() -> None:
    check_implementations([SMALL, replace(SMALL, impl="naive")])
    check_implementations([StepCase(impl="two_pass")])
    with pytest.raises(UserError, match="^unknown implementation 'two_pass'"):
        check_implementations([replace(SMALL, impl="two_pass")])
    with pytest.raises(UserError, match=r"^unknown implementation 'fast'; there are .*naive"):
        check_implementations([SMALL, replace(SMALL, impl="fast")])
