"""Errors of stand-ins that only let a host be imported, raised when they are used."""

from collections.abc import Callable
from typing import NoReturn

from di4c_plugin.errors import UserError


def refusal(package: str, name: str, pip: str) -> UserError:
    """Return the error for using `name` of the missing `package`."""
    return UserError(f"{name} needs {package}, which is not installed: pip install {pip}")


def refuses(package: str, name: str, pip: str) -> Callable[..., NoReturn]:
    """Return a function in place of `name` that raises UserError when it is called."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise refusal(package, name, pip)

    return refuse


def refused_class(package: str, name: str, pip: str) -> type:
    """Return a class in place of `name`: it can be subclassed, but instances raise UserError."""

    class Refused:
        def __init__(self, *args: object, **kwargs: object) -> None:
            raise refusal(package, name, pip)

    Refused.__name__ = Refused.__qualname__ = name.rpartition(".")[2]
    return Refused
