from dataclasses import asdict, replace
from typing import Any

from di4c_plugin.bench.cases import Case, LossCase, SampleCase, StepCase
from di4c_plugin.bench.table import Table

LOSS = LossCase(impl="naive", latents=4, threads=2)
STEP = StepCase(blocks=2, latent="token")


def result(case: Case, values: dict[str, Any], note: str | None = None) -> dict[str, Any]:
    return asdict(case) | {"note": note} | values


def loss(case: LossCase, peak: float | None, note: str | None = None) -> dict[str, Any]:
    seconds = None if peak is None else peak / 100
    error = None if note else 1.23e-6
    return result(case, {"peak_mb": peak, "seconds": seconds, "max_rel_error": error}, note)


def test_a_row_is_compared_with_the_naive_twin_of_its_sizes() -> None:
    cases = [replace(LOSS, latents=n, impl=i) for n in (4, 8) for i in ("naive", "chunked")]
    table = Table(cases)
    lines = [table.header()]
    for case, peak in zip(cases, (100, 20, 400, 20), strict=True):
        lines.append(table.row(loss(case, peak)))
    assert [line.split() for line in lines[1:]] == [
        ["naive", "4", "100.0", "1.000", "1.000", "1.000", "1.2e-06"],
        ["chunked", "4", "20.0", "0.200", "0.200", "0.200", "1.2e-06"],
        ["naive", "8", "400.0", "1.000", "4.000", "1.000", "1.2e-06"],
        ["chunked", "8", "20.0", "0.050", "0.200", "0.050", "1.2e-06"],
    ]
    assert len({len(line) for line in lines}) == 1
    assert table.heading() == (
        "loss: vocab 50258, positions 256, hidden 256, budget_mb 128, 50% masked; "
        "float32 on cpu, threads 2"
    )


def test_what_is_missing_is_a_dash_with_its_reason_below() -> None:
    chunked = replace(LOSS, impl="chunked")
    table = Table([LOSS, chunked])
    dead = table.row(loss(LOSS, None, "out of memory"))
    assert dead.split() == ["naive", "out", "of", "memory", "-", "-", "-", "-"]
    rows = [table.row(loss(chunked, 20, "no room")) for _ in range(2)]
    assert rows[0].split() == ["chunked", "20.0", "-", "0.200", "-", "-"]
    assert len(dead) == len(rows[0]) == len(table.header())
    assert table.legend()[-1] == "no error (-): no room"
    assert len(table.legend()) == 4


def test_an_update_is_told_in_tokens() -> None:
    table = Table([STEP])
    assert table.heading() == (
        "step: vocab 50258, positions 256, hidden 768, layers 12, heads 12, batch 1, blocks 2, "
        "latents 16, budget_mb 128, latent token; float32 on cpu"
    )
    values = {"tokens_per_second": 128.04, "seconds": 2.0, "peak_mb": 10.0, "total_mb": 30.0}
    row = table.row(result(STEP, values))
    assert row.split() == ["chunked", "128.0", "2.000", "-", "10.0", "-", "30.0"]


def test_blocks_that_vary_are_a_column() -> None:
    table = Table([STEP, replace(STEP, blocks=None)])
    assert table.header().split()[:2] == ["impl", "blocks"]
    values = dict.fromkeys(("tokens_per_second", "seconds", "peak_mb", "total_mb"))
    assert table.row(result(replace(STEP, blocks=None), values)).split()[1] == "all"


def test_a_ratio_has_its_spread() -> None:
    cases = [SampleCase(latent=name, matmul="high") for name in ("adaln", "token")]
    table = Table(cases)
    values = {"ratio": 1.0123, "teacher_seconds": 0.02, "student_seconds": 0.021}
    row = table.row(result(cases[0], values | {"ratio_spread": 0.0061}))
    assert row.split("  ")[-1].strip() == "1.012 (0.006)"
    assert table.row(result(cases[1], values | {"ratio_spread": None})).endswith("  1.012")
    assert row.split()[:3] == ["adaln", "20.00", "21.00"]
    assert table.heading().endswith("float32 on cpu, matmul high")
