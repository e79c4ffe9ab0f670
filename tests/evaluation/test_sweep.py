import time

import pytest
import torch
from torch import Tensor

from di4c_plugin.evaluation.frechet import frechet_distance
from di4c_plugin.evaluation.sweep import measure, timed

REFERENCE = torch.arange(12).view(6, 2)


def draw(*, steps: int) -> Tensor:
    return REFERENCE[:4] + steps


def test_a_cell_holds_the_samples_and_their_distance() -> None:
    cell = measure("teacher", 3, draw, REFERENCE)
    assert (cell.sampler, cell.steps) == ("teacher", 3)
    assert torch.equal(cell.samples, draw(steps=3))
    assert cell.value == frechet_distance(cell.samples, REFERENCE)


def test_the_clock_runs_while_sampling_only_and_is_shared_by_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def slow(*, steps: int) -> Tensor:
        nonlocal now
        now += 8.0
        return draw(steps=steps)

    def metric(x: Tensor, reference: Tensor) -> float:
        nonlocal now
        now += 100.0
        return 1.5

    cell = measure("teacher", 1, slow, REFERENCE, metric)
    assert (cell.seconds, cell.value) == (2.0, 1.5)
    samples, seconds = timed(slow, 1)
    assert torch.equal(samples, draw(steps=1))
    assert seconds == 2.0
