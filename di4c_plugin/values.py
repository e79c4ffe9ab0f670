"""Converts a value from Python, YAML or the command line to the type of an annotation.

Standard library only. `Annotated[int, Range(1, 8)]` and `Annotated[str, Choices("a", "b")]`
restrict the values of a type.
"""

import difflib
import inspect
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

PLAIN = (type(None), bool, int, float, str, bytes, list, tuple, dict, set)
SETS = (set, frozenset)
NAMED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
COUNTS = {2: "two", 3: "three"}
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Range:
    """The range of a number: from `least` to `most`, both included, and below `below`."""

    least: float
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and value < self.below

    def __str__(self) -> str:
        if self.below < math.inf:
            return f"in [{self.least}, {self.below})"
        if self.most < math.inf:
            return f"in [{self.least}, {self.most}]"
        return f"at least {self.least}"


@dataclass(frozen=True, init=False)
class Choices:
    """The allowed values."""

    values: tuple[object, ...]

    def __init__(self, *values: object) -> None:
        object.__setattr__(self, "values", values)


Count = Annotated[int, Range(1)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, below=1)]
Factor = Annotated[float, Range(0, 10**6)]
Std = Annotated[float, Range(0, 10**6)]
# A size of a network that we make: a larger one is a mistake, and would fill the memory.
Size = Annotated[int, Range(1, 2**16)]


class Misfit(Exception):
    """A value does not match an annotation.

    Attributes:
        message: to follow the option's name: "must be a number, not 'x'".
        near: whether the type is right and only the value is wrong.
    """

    def __init__(self, message: str, *, near: bool = False) -> None:
        super().__init__(message)
        self.message, self.near = message, near


def nearest(name: object, names: Iterable[object]) -> str:
    """Return " (did you mean 'x'?)" for the one of `names` that is most like `name`, or ""."""
    close = difflib.get_close_matches(str(name), [str(other) for other in names], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: object) -> str:
    """Return a value as short text."""
    try:
        text = repr(value) if isinstance(value, int | float) else reprlib.repr(value)
    except Exception:  # a number that Python refuses to print, or a `__repr__` that fails
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def converted(annotation: Any, value: Any) -> Any:
    """Return the value converted to the type of an annotation.

    Raises:
        Misfit: if it does not match.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, object, inspect.Parameter.empty) or isinstance(
        annotation, str | TypeVar
    ):
        return value
    if origin is Annotated:
        return _limited(parts, value)
    if origin is typing.Literal:
        return _within([Choices(*parts)], value)
    if origin in (typing.Union, types.UnionType):
        return _one_of(parts, value)
    if annotation in (None, type(None)):
        return _must(value is None, "null", value)
    if annotation in READERS:
        return READERS[annotation](value)
    kind = origin or annotation
    if kind is Callable:
        return _must(callable(value), "something to call", value)
    if isinstance(kind, type):
        return _of_class(kind, parts, value)
    return value


def _limited(parts: tuple[Any, ...], value: Any) -> Any:
    if any(isinstance(part, Choices) for part in parts):
        return _within(parts[1:], value)  # the choices are listed for a value of any type
    try:
        value = converted(parts[0], value)
    except Misfit as error:
        if error.near:
            _within(parts[1:], value)
        raise
    return _within(parts[1:], value)


def _within(limits: Iterable[object], value: Any) -> Any:
    for limit in limits:
        if isinstance(limit, Range) and value is not None and value not in limit:
            raise Misfit(f"must be {limit}, not {shown(value)}", near=True)
        if isinstance(limit, Choices) and not any(_same(value, choice) for choice in limit.values):
            choices = ", ".join(map(str, limit.values))
            raise Misfit(
                f"unknown {shown(value)}{nearest(value, limit.values)}; there are {choices}"
            )
    return value


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _must(holds: bool, expected: str, value: Any) -> Any:
    if not holds:
        raise Misfit(f"must be {expected}, not {shown(value)}")
    return value


def _one_of(kinds: Iterable[Any], value: Any) -> Any:
    """Return the value converted to the first matching type of a union; null is tried first."""
    expectations: list[str] = []
    for kind in sorted(kinds, key=lambda kind: kind is not type(None)):
        try:
            return converted(kind, value)
        except Misfit as error:
            if error.near:
                raise
            expected = error.message.removeprefix("must be ").removesuffix(f", not {shown(value)}")
            expectations += [expected] if kind is not type(None) else []
    raise Misfit(f"must be {' or '.join(dict.fromkeys(expectations))}, not {shown(value)}")


def _whole(value: Any) -> int:
    """Return a whole number, which may be written as a float such as 1e3."""
    whole = isinstance(value, numbers.Integral)
    whole = whole or (isinstance(value, numbers.Real) and float(value).is_integer())
    number = int(_must(whole and not isinstance(value, bool), NAMED[int], value))
    if abs(number) > LARGEST:
        raise Misfit(f"must be at most {LARGEST}, not {shown(value)}", near=True)
    return number


def _number(value: Any) -> float:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    _must(real, NAMED[float], value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Misfit(f"must be a finite number, not {shown(value)}", near=True)
    return number


def _truth(value: Any) -> bool:
    return bool(_must(isinstance(value, bool), NAMED[bool], value))


def _text(value: Any) -> str:
    return str(_must(isinstance(value, str), NAMED[str], value))


def _path(value: Any) -> Path:
    path = Path(_must(isinstance(value, str | os.PathLike), "a path", value))
    try:
        return path.expanduser()
    except RuntimeError as error:  # the home folder of an unknown user
        raise Misfit(f"must be a path, not {shown(value)}: {error}", near=True) from error


READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _truth,
    int: _whole,
    float: _number,
    str: _text,
    Path: _path,
}


def _of_class(kind: type, parts: tuple[Any, ...], value: Any) -> Any:
    if issubclass(kind, Mapping):
        _must(isinstance(value, Mapping), "a mapping of options", value)
        keys, values = parts if len(parts) == 2 else (Any, Any)
        return {converted(keys, k): _at(f"[{shown(k)}]", values, v) for k, v in value.items()}
    listed = kind.__module__ in ("builtins", "collections.abc")  # a tensor is a collection too
    if listed and issubclass(kind, Collection) and not issubclass(kind, str | bytes):
        return _collection(kind, parts, value)
    try:
        if isinstance(value, kind):
            return value
    except TypeError:  # a protocol
        pass
    # The call itself judges other objects: a model may stand for its network.
    return _must(not isinstance(value, PLAIN), f"a {kind.__name__}", value)


def _collection(kind: type, parts: tuple[Any, ...], value: Any) -> Any:
    fixed = issubclass(kind, tuple) and bool(parts) and parts[-1] is not Ellipsis
    inner = parts[0] if parts else Any
    if typing.get_origin(inner) is Annotated:
        plural = PLURALS.get(typing.get_args(inner)[0], "values")
    else:
        plural = PLURALS.get(inner, "values")
    expected = f"{COUNTS.get(len(parts), len(parts))} {plural}" if fixed else f"a list of {plural}"
    listed = _listed(value, ordered=issubclass(kind, Sequence))
    if listed is None or (fixed and len(listed) != len(parts)):
        raise Misfit(f"must be {expected}, not {shown(value)}")
    kinds = parts if fixed else (inner,) * len(listed)
    items = [_at(f"[{n}]", k, item) for n, (k, item) in enumerate(zip(kinds, listed, strict=True))]
    return tuple(items) if issubclass(kind, tuple) else kind(items) if kind in SETS else items


def _listed(value: Any, *, ordered: bool) -> list[Any] | None:
    """Return the elements of a list, a tensor, an array or a range; None for what is none."""
    if isinstance(value, str | bytes | Mapping) or (ordered and isinstance(value, Set)):
        return None
    try:
        value = value.tolist() if hasattr(value, "tolist") else value
        return [*value] if isinstance(value, Collection) else None
    except Exception:  # a tensor without values
        return None


def _at(where: str, annotation: Any, value: Any) -> Any:
    """Return the converted element of a collection; a `Misfit` says which one failed."""
    try:
        return converted(annotation, value)
    except Misfit as error:
        if error.message.startswith("unknown "):  # which says the value itself
            where, space = "", ""
        else:
            space = "" if error.message.startswith("[") else " "
        raise Misfit(f"{where}{space}{error.message}", near=True) from None
