"""User mistakes end a host's program with one line instead of Hydra's traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def one_line(method: Callable[P, R]) -> Callable[P, R]:
    """Turn a `UserError` of `method` into its message on stderr and exit code 2.

    Hydra lets `SystemExit` pass and prints everything else with a traceback.
    """

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except UserError as error:
            announce(f"error: {error}")
            raise SystemExit(2) from error

    return wrapper
