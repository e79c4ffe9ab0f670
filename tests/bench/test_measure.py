import time
from pathlib import Path

import pytest
import torch

from di4c_plugin.bench.measure import median_seconds, peak_bytes, seconds
from di4c_plugin.evaluation.report import status_bytes

CPU = torch.device("cpu")
MB = 10**6
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def hold(megabytes: int) -> torch.Tensor:
    return torch.ones(megabytes * MB // 4)


@linux
def test_the_peak_is_above_what_was_held_before_and_forgets_earlier_peaks() -> None:
    hold(300)
    kept = hold(50)

    def run() -> None:
        hold(100)
        hold(40)

    above, in_all = peak_bytes(run, CPU)
    assert above == pytest.approx(100 * MB, rel=0.05)
    assert in_all == pytest.approx(above + status_bytes("VmRSS"), rel=0.05)
    assert len(kept)


@linux
def test_memory_that_python_freed_is_not_counted_as_held() -> None:
    # Many small tensors come from the heap, which glibc keeps.
    small = [torch.ones(2500) for _ in range(5000)]
    del small

    def run() -> list[torch.Tensor]:
        return [torch.ones(2500) for _ in range(5000)]

    above, _ = peak_bytes(run, CPU)
    assert above > 45 * MB


def test_time_is_measured_without_the_preparation() -> None:
    assert 0.02 <= seconds(lambda: time.sleep(0.02), CPU) < 0.2
    calls = []

    def prepare() -> None:
        calls.append("prepare")
        time.sleep(0.05)

    assert median_seconds(lambda: calls.append("run"), prepare, 3, CPU) < 0.04
    assert calls == ["prepare", "run"] * 3


@pytest.mark.gpu
def test_peak_and_time_on_the_device() -> None:
    device = torch.device("cuda")
    kept = torch.ones(10 * MB, device=device)
    above, in_all = peak_bytes(lambda: torch.ones(25 * MB, device=device), device)
    assert above == pytest.approx(100 * MB, rel=0.05)
    assert in_all >= above + kept.nbytes
    matrix = torch.randn(4096, 4096, device=device)
    assert 0 < seconds(lambda: matrix @ matrix, device) < 1
