"""Peak memory and time of a function, on the CPU and on CUDA.

Peak memory on the CPU is that of the whole process, including memory that torch does not count; so
each case has its own process.
"""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable
from statistics import median

import torch

from di4c_plugin.evaluation.report import STATUS, resident_peak, status_bytes

Run = Callable[[], object]


def peak_bytes(run: Run, device: torch.device) -> tuple[int, int]:
    """Run once; return the peak of memory, in bytes: above the baseline, and in total.

    On CUDA this counts tensors, by torch's allocator; on Linux the process's resident pages;
    elsewhere only growth above all earlier peaks.
    """
    gc.collect()
    if device.type == "cuda":
        baseline = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        trim_heap()
        baseline = reset_resident_peak()
        run()
        peak = resident_peak()
    return peak - baseline, peak


def trim_heap() -> None:
    """Return freed memory to the system, with glibc: its reuse would not be counted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_resident_peak() -> int:
    """Reset the peak, on Linux; return the present memory of the process, in bytes."""
    if not STATUS.exists():
        return resident_peak()
    with contextlib.suppress(OSError):
        STATUS.with_name("clear_refs").write_text("5")
    return status_bytes("VmRSS")


def seconds(run: Run, device: torch.device) -> float:
    """Run once; return the seconds by the device's clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def median_seconds(run: Run, prepare: Run, repeats: int, device: torch.device) -> float:
    """Return the median time of `repeats` runs; `prepare` runs before each, untimed."""
    times = []
    for _ in range(repeats):
        prepare()
        times.append(seconds(run, device))
    return median(times)
