"""A program that `di4c run` enters, and the flags that put our sampler in. Standard library only.

The flags are taken out of the arguments before the program sees them: --sampler NAME, --student
PATH and --sampler-option NAME=VALUE.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from di4c_plugin.checkouts import Program
from di4c_plugin.errors import UserError
from di4c_plugin.programs.shims.after_import import Patch

SAMPLER, STUDENT, OPTION = "--sampler", "--student", "--sampler-option"


@dataclass(frozen=True)
class SamplerFlags:
    """What a user asks for: one of our samplers, a student (a path), options of the sampler."""

    sampler: str = "ancestral"
    student: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScriptProgram:
    """A program without Hydra, registered by `di4c_programs` under the name of its host.

    Attributes:
        known: how its checkout is recognised.
        patches: `(root, flags) -> {module: patch}`: each patch gets the host's module once that is
            imported. `flags` is None where the user asks for no sampler of ours.
        own_samplers: values of a --sampler of its own, and which of our samplers does the same:
            they stay the program's, unless a student or options are given too.
    """

    known: Program
    patches: Callable[[Path, SamplerFlags | None], Mapping[str, Patch]]
    own_samplers: Mapping[str, str] = field(default_factory=dict)


def take_flags(
    arguments: Sequence[str], own_samplers: Mapping[str, str]
) -> tuple[list[str], SamplerFlags | None]:
    """Return the arguments that are the program's own, and our flags; None without any.

    Raises:
        UserError: for a flag without a value.
    """
    rest, found = _split(arguments)
    sampler, student = (
        values[-1] if values else None for values in (found[SAMPLER], found[STUDENT])
    )
    asked = student is not None or bool(found[OPTION])
    if not asked and (sampler is None or sampler in own_samplers):
        return list(arguments), None
    if sampler is not None and sampler in own_samplers:
        rest += [SAMPLER, sampler]
        sampler = own_samplers[sampler]
    options = dict(pair_of(text, OPTION) for text in found[OPTION])
    return rest, SamplerFlags(sampler or "ancestral", student, options)


def refuse_flags(host: str, arguments: Sequence[str]) -> None:
    """Refuse our flags for a program where Hydra says the sampler; raises UserError."""
    found = _split(arguments)[1]
    if any(found.values()):
        name = (found[SAMPLER] or ["ancestral"])[-1]
        raise UserError(f"{host} is configured by Hydra: write sampler={name}")


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
