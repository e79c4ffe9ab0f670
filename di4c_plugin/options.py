"""Checks options against the annotations of a signature. Standard library only.

The same check serves Python, YAML and the command line, our classes and those of plugins.
Parameters without an annotation take anything.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, TypeVar

from di4c_plugin.errors import UserError
from di4c_plugin.values import Misfit, converted, nearest, shown

P = ParamSpec("P")
R = TypeVar("R")

NAMEABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def fitted(
    call: Callable[..., Any],
    options: Mapping[str, Any],
    what: str,
    *,
    positional: int = 0,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Return options for `call`, converted to the types of its annotations, such as list to tuple.

    Args:
        call: a class or function.
        options: keyword arguments.
        what: the owner of the options for messages, such as "latent 'token'".
        positional: the number of positional arguments that the caller passes.
        given: names of keyword arguments that the caller passes itself.

    Raises:
        UserError: for unknown or missing options, and for values of the wrong type.
    """
    signature = parameters(call)
    if signature is None:
        return dict(options)
    keys = {n: p for n, p in list(signature.items())[positional:] if p.kind in NAMEABLE}
    taken = {n: p for n, p in keys.items() if n not in given}
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    valid = f"; it takes {', '.join(taken) or 'no options'}"
    for name in options:
        if not isinstance(name, str):
            raise UserError(f"{what}: names of options are text, not {shown(name)}")
        if name not in taken and (not anything or name in given):
            fault = f"got an unexpected keyword argument {name!r}{nearest(name, taken)}"
            raise UserError(f"{what}: {fault}{valid}")
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"{what}: missing a required argument: {name!r}{valid}")
    return {
        name: fit(taken[name], value, f"{what}: ") if name in taken else value
        for name, value in options.items()
    }


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function check its arguments by its annotations, with UserError."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        known = parameters(function) or {}
        bound = inspect.Signature(list(known.values())).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if known[name].kind in NAMEABLE:
                bound.arguments[name] = fit(known[name], value)
        return function(*bound.args, **bound.kwargs)

    return checked


def fit_fields(instance: Any, before: str = "") -> None:
    """Convert the fields of a frozen dataclass by their annotations.

    Raises:
        UserError: for a value of the wrong type; `before` stands before the field's name.
    """
    for name, parameter in (parameters(type(instance)) or {}).items():
        object.__setattr__(instance, name, fit(parameter, getattr(instance, name), before))


def with_defaults(call: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call, with the defaults of those that are not said."""
    known = (parameters(call) or {}).values()
    return {p.name: p.default for p in known if p.default is not p.empty} | dict(options)


def fit(parameter: inspect.Parameter, value: Any, before: str = "") -> Any:
    """Return a value converted to the type of its parameter; raises UserError."""
    if value is parameter.default:
        return value
    try:
        return converted(parameter.annotation, value)
    except Misfit as error:
        message = error.message.replace("unknown ", f"unknown {parameter.name} ", 1)
        space = "" if message.startswith("[") else " "
        text = message if message != error.message else f"{parameter.name}{space}{message}"
        raise UserError(before + text) from None


def parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a call, annotations evaluated; None if it has no signature."""
    try:
        return inspect.signature(call, eval_str=True).parameters
    except (ValueError, TypeError):
        return None
    except Exception:  # an annotation that is imported for type checkers only
        return inspect.signature(call).parameters
