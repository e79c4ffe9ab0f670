"""What we tell about a host's run, on stderr. Standard library only."""

import functools
import io
import os
import sys

from di4c_plugin.errors import printable


def plain_streams() -> None:
    """Let stdout and stderr escape what their encoding lacks, as `PYTHONIOENCODING=ascii` does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_first_process() -> bool:
    """Tell whether this process speaks for all of a run, whoever started them."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def announce(line: str) -> None:
    """Write `di4c: line` to stderr, unless another process does."""
    if is_first_process():
        sys.stderr.write(f"di4c: {printable(line)}\n")
        sys.stderr.flush()


@functools.cache
def announce_once(line: str) -> None:
    """Do as `announce`, unless the line has been written."""
    announce(line)
