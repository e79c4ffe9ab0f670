"""Options, checked by the types that a signature gives them. Standard library only.

There is one check for Python, YAML and the command line, for our classes and those of plugins: what
the annotation of a parameter says. Parameters without an annotation take anything.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, TypeVar

from di4c_plugin.errors import UserError
from di4c_plugin.values import Misfit, as_said, nearest, shown

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
    """Return options for `call` as its annotations have them, such as tuples for lists.

    Args:
        call: a class or function.
        options: keyword arguments.
        what: of which they are the options, such as "latent 'token'".
        positional: how many arguments the caller gives before them.
        given: names of keyword arguments that are the caller's, and no options.

    Raises:
        UserError: for unknown or missing options, and those of another type.
    """
    found = parameters(call)
    if found is None:
        return dict(options)
    keys = {n: p for n, p in list(found.items())[positional:] if p.kind in NAMEABLE}
    taken = {n: p for n, p in keys.items() if n not in given}
    anything = any(p.kind is p.VAR_KEYWORD for p in found.values())
    listed = f"; it takes {', '.join(taken) or 'no options'}"
    for name in options:
        if not isinstance(name, str):
            raise UserError(f"{what}: names of options are text, not {shown(name)}")
        if name not in taken and (not anything or name in given):
            told = f"got an unexpected keyword argument {name!r}{nearest(name, taken)}"
            raise UserError(f"{what}: {told}{listed}")
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"{what}: missing a required argument: {name!r}{listed}")
    return {
        name: fit(taken[name], value, f"{what}: ") if name in taken else value
        for name, value in options.items()
    }


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments that are not what its annotations say, by UserError."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        known = parameters(function) or {}
        bound = inspect.Signature(list(known.values())).bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if known[name].kind in NAMEABLE:
                bound.arguments[name] = fit(known[name], value)
        return function(*bound.args, **bound.kwargs)

    return checked


def fit_fields(instance: Any) -> None:
    """Make the fields of a frozen dataclass what their annotations say; raises UserError."""
    for name, parameter in (parameters(type(instance)) or {}).items():
        object.__setattr__(instance, name, fit(parameter, getattr(instance, name)))


def fit(parameter: inspect.Parameter, value: Any, before: str = "") -> Any:
    """Return the value of a parameter as its annotation has it; raises UserError."""
    if value is parameter.default:
        return value
    try:
        return as_said(parameter.annotation, value)
    except Misfit as error:
        told = error.told.replace("unknown ", f"unknown {parameter.name} ", 1)
        space = "" if told.startswith("[") else " "
        named = told if told != error.told else f"{parameter.name}{space}{told}"
        raise UserError(before + named) from None


def parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a call with their annotations as types; None if it has none."""
    try:
        return inspect.signature(call, eval_str=True).parameters
    except (ValueError, TypeError):
        return None
    except Exception:  # what names an annotation that is imported for type checkers only
        return inspect.signature(call).parameters
