"""The description of a model in a file: one schema for our own and the hosts' config files.

Types and ranges of values are checked here, before they are used. `model.check_weights` compares
sizes with the weights.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from di4c_plugin.errors import UserError, quoted, reason
from di4c_plugin.limits import exceeds, over

FORMAT = 1
MOST = 2**31 - 1
TEXT = 2**22  # characters of a description
VALUES, DEPTH = 10**5, 50  # in one
PARTS = ("network", "process", "latent", "info")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
# Ranges of numbers that differ from the default, 1 ... MOST for integers and above 0 for others.
RANGES: dict[str, tuple[float, float]] = {
    "attention": (-1, MOST),
    "barred": (0, MOST),
    "classes": (0, MOST),
    "data_min_max": (0, MOST),
    "dim": (1, 2**16),
    "dropout": (0, 1),
    "eps": (0, 0.99),
    "length": (1, 2**20),
    "mask": (0, MOST),
    "pad": (0, MOST),
    "first_position": (0, MOST),
    "embedding_std": (0, MOST),
    "num_classes": (0, MOST),
    "registers": (0, MOST),
    "shape": (1, 2**16),
    "std": (0, MOST),
    "temperature": (0, MOST),
}
# There is at least one weight for each of these.
COUNTED = ("blocks", "depth", "n_blocks", "num_blocks", "widths")
# Options of built-in processes, schedules and latents; those of plugins are any plain values.
OPTIONS: dict[str, Any] = {
    "name": str,
    "schedule": str,
    **dict.fromkeys(("num_tokens", "dim", "features"), int),
    **dict.fromkeys(("mask", "blocks"), int | None),
    **dict.fromkeys(("eps", "std", "temperature"), float),
    **dict.fromkeys(("rate_sigma", "q_sigma", "time_exponential", "time_base"), float),
    **dict.fromkeys(("leave_one_out", "randomize"), bool),
    "grid": tuple[int, int] | None,
}
SAMPLING: dict[str, Any] = {"steps": int, "sampler": str, "latents": str, "last_latents": int}
CALLS = 10**4  # of a network for a sample, that a file may ask for
Sizes = TypeVar("Sizes")


def read_description(text: Any, origin: str) -> dict[str, Any]:
    """Return the description in JSON text, checked.

    Raises:
        UserError: naming `origin` and the first field that is missing or has a wrong type, or if a
            newer version wrote it.
    """
    damaged = f"the description of the model in {origin} is damaged"
    if not isinstance(text, str) or exceeds(len(text), TEXT):
        raise UserError(over(f"{damaged}: it has more than {TEXT} characters"))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{damaged}: {reason(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{damaged}: it is {quoted(content)}, with no fields")
    if missing := [name for name in ("format", *PARTS) if name not in content]:
        raise UserError(f"{damaged}: it has no {missing[0]!r}")
    checked = check_parts(content, origin)
    if checked["format"] > FORMAT:
        raise UserError(f"{origin} was written by a newer di4c_plugin; please upgrade")
    return checked


def check_parts(parts: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check the parts of a description that are present, and return them.

    Raises:
        UserError: as `read_description`.
    """
    check = _Check(origin)
    check.plain(parts, "it")
    if "format" in parts:
        check.value(int, parts["format"], "format")
    if parts.get("role", "teacher") not in ("teacher", "student"):
        raise check.wrong("role", parts["role"], "neither teacher nor student")
    if "kind" in parts:
        check.value(str, parts["kind"], "kind")
    for part in (*PARTS, "sampling", "adapter"):
        value = parts.get(part, {})
        if not isinstance(value, Mapping) and not (part == "latent" and value is None):
            raise check.wrong(part, value, "no fields")
    sampling: Mapping[str, Any] = parts.get("sampling", {})
    for name, value in sampling.items():
        check.value(SAMPLING.get(name, Any), value, f"sampling.{name}")
        if isinstance(value, int | float) and exceeds(abs(value), CALLS):
            raise check.wrong(f"sampling.{name}", value, over(f"it is above {CALLS}"))
    for part in ("process", "latent"):
        options = parts.get(part) or {}
        if part in parts and parts[part] is not None and "name" not in options:
            raise check.wrong(part, options, f"a {part} without a name")
        for name, value in options.items():
            check.value(OPTIONS.get(name, Any), value, f"{part}.{name}")
    return dict(parts)


def check_process(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the config of a process, checked like a description's; raises UserError."""
    checked: dict[str, Any] = check_parts({"process": dict(config)}, origin)["process"]
    return checked


def sizes_of(
    kind: type[Sizes], values: Mapping[str, Any], origin: str, *, weights: int = MOST
) -> Sizes:
    """Return the sizes of a network, a dataclass, that plain values describe.

    Args:
        kind: the dataclass.
        values: by the names of its fields.
        origin: for messages.
        weights: how many tensors there are: a network has no more blocks.

    Raises:
        UserError: as `read_description`, and if the sizes do not go together.
    """
    check = _Check(origin, weights)
    sizes: Sizes = check.value(kind, values, "network")
    return sizes


class _Check:
    """Checks values of a file against types; the first wrong one is a UserError."""

    def __init__(self, origin: str, weights: int = MOST) -> None:
        self.origin, self.weights, self.left = origin, weights, VALUES

    def wrong(self, field: str, value: Any, what: str) -> UserError:
        problem = f"{field} is {quoted(value)}: {what}"
        return UserError(f"the description of the model in {self.origin} is damaged: {problem}")

    def plain(self, value: Any, field: str, depth: int = 0) -> None:
        """Refuse all but plain values, and too many or too deeply nested ones."""
        self.left -= 1
        if exceeds(-self.left, 0):
            raise self.wrong(field, value, over(f"more than {VALUES} values"))
        if depth > DEPTH:
            raise self.wrong(field, value, f"more than {DEPTH} values in each other")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                self.plain(inner, f"{field}.{key!s:.40}" if depth else f"{key!s:.40}", depth + 1)
        elif isinstance(value, list | tuple):
            for inner in value:
                self.plain(inner, field, depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not -(2**63) <= value < 2**64:  # nor is nan
                raise self.wrong(field, value, "no number that is in range")
        elif value is not None and not isinstance(value, bool | str):
            raise self.wrong(field, value, "no plain value")

    def value(self, hint: Any, value: Any, field: str) -> Any:
        """Return the value, checked against the type `hint`."""
        if hint is Any:
            return value
        if get_origin(hint) is UnionType:  # with None
            return None if value is None else self.value(get_args(hint)[0], value, field)
        if is_dataclass(hint):
            return self._dataclass(hint, value, field)
        if get_origin(hint) is tuple:
            return self._tuple(get_args(hint), value, field)
        if hint is str:
            if not (isinstance(value, str) and NAME.fullmatch(value)):
                raise self.wrong(field, value, "no name")
        elif hint is bool:
            if not isinstance(value, bool):
                raise self.wrong(field, value, "neither true nor false")
        else:
            self._number(hint, value, field)
        return value

    def _number(self, hint: Any, value: Any, field: str) -> None:
        name = field.rpartition(".")[2]
        what = "no whole number" if hint is int else "no number"
        if type(value) not in ((int,) if hint is int else (int, float)):
            raise self.wrong(field, value, what)
        low, high = RANGES.get(name, (1 if hint is int else 1e-12, MOST))
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(field, value, f"{what} from {low:g} to {high:g}")
        if name in COUNTED and value > self.weights:
            raise self.wrong(field, value, f"there are {self.weights} weights")

    def _tuple(self, hints: tuple[Any, ...], value: Any, field: str) -> tuple[Any, ...]:
        length = 64 if hints[-1] is Ellipsis else len(hints)
        if not isinstance(value, list | tuple) or not value or len(value) > length:
            raise self.wrong(field, value, "no list of numbers")
        if hints[-1] is not Ellipsis and len(value) != length:
            raise self.wrong(field, value, f"no list of {length} numbers")
        return tuple(self.value(hints[0], inner, field) for inner in value)

    def _dataclass(self, kind: Any, values: Any, field: str) -> Any:
        if isinstance(values, kind):
            return values
        if not isinstance(values, Mapping):
            raise self.wrong(field, values, "no fields")
        hints, declared = get_type_hints(kind), fields(kind)
        for name in values.keys() - {entry.name for entry in declared}:
            raise self.wrong(f"{field}.{name!s:.40}", values[name], f"{kind.__name__} has no such")
        for entry in declared:
            if entry.name not in values and entry.default is MISSING:
                raise self.wrong(f"{field}.{entry.name}", None, "it is missing")
        checked = {k: self.value(hints[k], v, f"{field}.{k}") for k, v in values.items()}
        try:
            return kind(**checked)
        except UserError as error:
            raise UserError(
                f"the description of the model in {self.origin} is damaged: {error}"
            ) from error
