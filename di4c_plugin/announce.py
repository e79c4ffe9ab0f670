"""What we tell about a host's run, on stderr. Standard library only.

`DI4C_QUIET=1`, as `--quiet` sets it, silences all of it; errors are not told here.
"""

import functools
import io
import os
import sys

from di4c_plugin.errors import printable

QUIET = "DI4C_QUIET"


def plain_streams() -> None:
    """Let stdout and stderr escape what their encoding lacks, as `PYTHONIOENCODING=ascii` does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_first_process() -> bool:
    """Tell whether this process speaks for all of a run, whoever started them."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def is_quiet() -> bool:
    """Tell whether results and errors are all that is wanted."""
    return os.environ.get(QUIET, "0") not in ("", "0")


def on_terminal() -> bool:
    """Tell whether stderr is a terminal on which a line may be written over, and is to be."""
    plain = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return sys.stderr.isatty() and not plain and not is_quiet()


def announce(line: str) -> None:
    """Write `di4c: line` to stderr, unless another process does, or nobody wants to know."""
    if is_first_process() and not is_quiet():
        sys.stderr.write(f"di4c: {printable(line)}\n")
        sys.stderr.flush()


@functools.cache
def announce_once(line: str) -> None:
    """Do as `announce`, unless the line has been written."""
    announce(line)
