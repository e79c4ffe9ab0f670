"""Limits on what a file or an option may make this process hold, and the way to lift them.

They are far above what any of the hosts writes. Whoever knows better sets DI4C_LIMITS=off in the
environment, and is refused only what cannot be: shapes beyond the bytes that are there, numbers
that no machine holds. Standard library only.
"""

import os

SWITCH, OFF = "DI4C_LIMITS", "off"


def exceeds(amount: float, most: float) -> bool:
    """Tell whether an amount is above a limit that nobody has lifted."""
    return amount > most and os.environ.get(SWITCH) != OFF


def over(what: str) -> str:
    """Return what to say of a limit that is exceeded, with the way to lift it."""
    return f"{what} ({SWITCH}={OFF} lifts this limit)"
