"""Peak memory and time of a function, on the CPU and on CUDA.

Peak memory on the CPU is that of the whole process, so that it tells the truth also of memory that
torch does not count; a case therefore has a process of its own.
"""

import contextlib
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

Run = Callable[[], object]
PROC = Path("/proc/self")


def peak_bytes(run: Run, device: torch.device) -> tuple[int, int]:
    """Run once; return the peak of memory, in bytes: above what was held before, and in all.

    On CUDA, of tensors, as torch's allocator counts them. On Linux, of the process's resident
    pages. Elsewhere only growth over every earlier peak is seen.
    """
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        trim_heap()
        before = reset_resident_peak()
        run()
        peak = resident_peak()
    return peak - before, peak


def trim_heap() -> None:
    """Give freed memory back to the system, where glibc can: reuse of it would go unseen."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_resident_peak() -> int:
    """Forget the peak so far, where Linux can; return what the process holds now, in bytes."""
    if not (PROC / "status").exists():
        return resident_peak()
    with contextlib.suppress(OSError):
        (PROC / "clear_refs").write_text("5")
    return status_bytes("VmRSS")


def resident_peak() -> int:
    """Return the most memory the process has held since `reset_resident_peak`, in bytes."""
    if (PROC / "status").exists():
        return status_bytes("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def status_bytes(name: str) -> int:
    """Return an entry of /proc/self/status, in bytes."""
    lines = (PROC / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def seconds(run: Run, device: torch.device) -> float:
    """Run once with the clock of the device running."""
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
    """Return the median time of `repeats` runs; before each, `prepare` runs off the clock."""
    times = []
    for _ in range(repeats):
        prepare()
        times.append(seconds(run, device))
    return median(times)
