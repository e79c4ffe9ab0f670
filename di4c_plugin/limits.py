"""Limits on what a file or an option may make this process hold, and the way to lift them.

They are far above what any of the hosts writes. Whoever knows better sets DI4C_LIMITS=off in the
environment, and is refused only what cannot be: shapes beyond the bytes that are there, numbers
that no machine holds. Standard library only.
"""

import errno
import os
from pathlib import Path

SWITCH, OFF = "DI4C_LIMITS", "off"


def exceeds(amount: float, most: float) -> bool:
    """Tell whether an amount is above a limit that nobody has lifted."""
    return amount > most and os.environ.get(SWITCH) != OFF


def over(what: str) -> str:
    """Return what to say of a limit that is exceeded, with the way to lift it."""
    return f"{what} ({SWITCH}={OFF} lifts this limit)"


def regular(path: Path) -> Path:
    """Return a path that may be read to its end; whoever opens a pipe may wait without end.

    Raises:
        OSError: for a pipe or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a folder is refused in opening
        raise OSError(errno.EINVAL, "it is no regular file")
    return path
