"""What the stand-ins that only let a host be imported say when they are used."""

from collections.abc import Callable
from typing import NoReturn

from di4c_plugin.errors import UserError


def refusal(package: str, name: str, pip: str) -> UserError:
    """Return the error of whoever uses `name` of the missing `package`."""
    return UserError(f"{name} needs {package}, which is not installed: pip install {pip}")


def refuses(package: str, name: str, pip: str) -> Callable[..., NoReturn]:
    """Return a function that stands for `name` and raises UserError when it is called."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise refusal(package, name, pip)

    return refuse
