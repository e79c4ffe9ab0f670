"""Limits on the memory that a file or an option may demand, and the switch that lifts them.

They are far above what any host writes. With DI4C_LIMITS=off in the environment only the impossible
is refused: tensors larger than their file, numbers that no machine holds. Standard library only.
"""

import errno
import os
from pathlib import Path

SWITCH, OFF = "DI4C_LIMITS", "off"
SAMPLES = 10**8  # that are kept in memory


def exceeds(amount: float, most: float) -> bool:
    """Return whether an amount is above a limit, and limits are on."""
    return amount > most and os.environ.get(SWITCH) != OFF


def over(what: str) -> str:
    """Return the message for an exceeded limit, with the switch that lifts it."""
    return f"{what} ({SWITCH}={OFF} lifts this limit)"


def regular(path: Path) -> Path:
    """Return the path, unless opening or reading it could block forever.

    Raises:
        OSError: for a pipe or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # opening a folder fails anyway
        raise OSError(errno.EINVAL, "it is no regular file")
    return path
