"""Messages on stderr. Standard library only.

`DI4C_QUIET=1`, as `--quiet` sets it, silences them; errors do not pass through here.
"""

import functools
import io
import os
import sys

from di4c_plugin.errors import printable

QUIET = "DI4C_QUIET"


def plain_streams() -> None:
    """Make stdout and stderr escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_first_process() -> bool:
    """Return whether this is a run's first process, by the launchers' environment variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def is_quiet() -> bool:
    """Return whether the user wants only results and errors."""
    return os.environ.get(QUIET, "0") not in ("", "0")


def on_terminal() -> bool:
    """Return whether stderr is a terminal on which lines may be overwritten, and not quiet."""
    plain = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return sys.stderr.isatty() and not plain and not is_quiet()


def announce(line: str) -> None:
    """Write `di4c: line` to stderr, in the first process only, and not if `is_quiet`."""
    if is_first_process() and not is_quiet():
        sys.stderr.write(f"di4c: {printable(line)}\n")
        sys.stderr.flush()


@functools.cache
def announce_once(line: str) -> None:
    """Like `announce`, but write the same line only once."""
    announce(line)
