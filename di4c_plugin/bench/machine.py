"""On what, and with which versions, something was measured."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def machine(device: str, threads: int | None) -> dict[str, Any]:
    """Return processor, cores, threads used, memory in MB (10^6 bytes), and the accelerator."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }


def cpu_model() -> str:
    """Return the name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python, torch and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "di4c_plugin": metadata.version("di4c_plugin"),
    }
