"""Messages on stderr. Standard library only."""

import functools
import io
import os
import sys

from di4c_plugin.errors import printable


def plain_streams() -> None:
    """Make stdout and stderr escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_first_process() -> bool:
    """Return whether this is a run's first process, by the launchers' environment variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def announce(line: str) -> None:
    """Write `di4c: line` to stderr, in the first process only."""
    if is_first_process():
        sys.stderr.write(f"di4c: {printable(line)}\n")
        sys.stderr.flush()


@functools.cache
def announce_once(line: str) -> None:
    """Like `announce`, but write the same line only once."""
    announce(line)
