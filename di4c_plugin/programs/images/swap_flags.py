"""The flags of `di4c run` that put our sampler into a host's program. Standard library only.

They are taken out of the arguments before the program sees them: --sampler NAME, --student PATH and
--sampler-option NAME=VALUE. Halton-MaskGIT has a --sampler of its own: the names that it knows stay
its own, unless a student or options are given too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from di4c_plugin.checkouts import Program
from di4c_plugin.errors import UserError

SAMPLER, STUDENT, OPTION = "--sampler", "--student", "--sampler-option"
# By host: its own values of --sampler, and which of our samplers does the same.
OWN = {"halton_maskgit": {"halton": "halton", "confidence": "maskgit"}}


@dataclass(frozen=True)
class Flags:
    """What a user asks for: one of our samplers, a student (a path), options of the sampler."""

    sampler: str = "ancestral"
    student: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def take_flags(host: Program, arguments: Sequence[str]) -> tuple[list[str], Flags | None]:
    """Return the arguments that are the program's own, and our flags; None without any.

    Raises:
        UserError: for a flag without a value, and for our flags where Hydra says the sampler.
    """
    rest, found = _split(arguments)
    if host.configs is not None:
        if found[SAMPLER] or found[STUDENT] or found[OPTION]:
            name = (found[SAMPLER] or ["ancestral"])[-1]
            raise UserError(f"{host.name} is configured by Hydra: write sampler={name}")
        return list(arguments), None
    given = found[SAMPLER][-1] if found[SAMPLER] else None
    theirs = OWN.get(host.name, {})
    if given in theirs:
        if not (found[STUDENT] or found[OPTION]):
            return list(arguments), None
        rest += [SAMPLER, given]
        given = theirs[given]
    if given is None and not (found[STUDENT] or found[OPTION]):
        return list(arguments), None
    student = found[STUDENT][-1] if found[STUDENT] else None
    return rest, Flags(
        given or "ancestral", student, dict(pair_of(text, OPTION) for text in found[OPTION])
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the others, and the values of each of our flags."""
    found: dict[str, list[str]] = {SAMPLER: [], STUDENT: [], OPTION: []}
    rest, left = [], list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name not in found:
            rest.append(name + equals + value)
            continue
        if not equals:
            if not left or left[0].startswith("--"):
                raise UserError(f"{name} takes a value")
            value = left.pop(0)
        found[name].append(value)
    return rest, found


def pair_of(text: str, flag: str) -> tuple[str, Any]:
    """Read NAME=VALUE behind a flag; the value is JSON where it can be, else text.

    Raises:
        UserError: naming the flag.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"{flag} takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
