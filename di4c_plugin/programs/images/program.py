"""The flags that select our sampler in a program without Hydra. Standard library only.

The flags are removed from the arguments before the program sees them: --sampler NAME, --student
PATH and --sampler-option NAME=VALUE.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from di4c_plugin.errors import UserError

SAMPLER, STUDENT, OPTION = "--sampler", "--student", "--sampler-option"
FRACTION = re.compile(r"[-+]?\.\d+(e[-+]?\d+)?", re.IGNORECASE)  # which JSON does not know


@dataclass(frozen=True)
class SamplerFlags:
    """The user's choice of one of our samplers, a student (a path) and options of the sampler."""

    sampler: str = "ancestral"
    student: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def take_flags(
    arguments: Sequence[str], own_samplers: Mapping[str, str]
) -> tuple[list[str], SamplerFlags | None]:
    """Return the program's own arguments, and our flags, or None without any.

    Raises:
        UserError: for a flag without a value.
    """
    others, values = _split(arguments)
    sampler, student = (
        given[-1] if given else None for given in (values[SAMPLER], values[STUDENT])
    )
    is_ours = student is not None or bool(values[OPTION])
    if not is_ours and (sampler is None or sampler in own_samplers):
        return list(arguments), None
    if sampler is not None and sampler in own_samplers:
        others += [SAMPLER, sampler]
        sampler = own_samplers[sampler]
    options = dict(pair_of(text, OPTION) for text in values[OPTION])
    return others, SamplerFlags(sampler or "ancestral", student, options)


def refuse_flags(host: str, arguments: Sequence[str]) -> None:
    """Raise UserError for our flags in a program with Hydra, which sets the sampler itself."""
    values = _split(arguments)[1]
    if any(values.values()):
        name = (values[SAMPLER] or ["ancestral"])[-1]
        raise UserError(f"{host} is configured by Hydra: write sampler={name}")


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the program's arguments, and the values of each of our flags."""
    values: dict[str, list[str]] = {SAMPLER: [], STUDENT: [], OPTION: []}
    others, remaining = [], list(arguments)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if name not in values:
            others.append(name + equals + value)
            continue
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"{name} takes a value")
            value = remaining.pop(0)
        values[name].append(value)
    return others, values


def pair_of(text: str, flag: str) -> tuple[str, Any]:
    """Parse a flag's NAME=VALUE; the value is a number such as .5, JSON, or else text.

    Raises:
        UserError: with the flag's name.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"{flag} takes NAME=VALUE, not {text!r}")
    try:
        return name, float(value) if FRACTION.fullmatch(value) else json.loads(value)
    except ValueError:
        return name, value
