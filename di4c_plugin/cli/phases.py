"""Phases of `di4c train`: runs one after the other, each from the student of the one before.

`teacher=@NAME` and `student=@NAME` name the student of an earlier phase; a phase with
`student=null` starts from its teacher.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError
from di4c_plugin.programs.launch import check_model_file

if TYPE_CHECKING:
    from di4c_plugin.training.compose import RunConfig

OF_COMMAND = ("experiment", "out", "phases", "student")  # typed options that no phase gets
MODELS = ("teacher", "student")  # options that name one
NAME = re.compile(r"\w[\w.-]*")  # of a folder in `out`


def compose_phases(
    phases: Any, overrides: Sequence[str], out: Path, compose: "Callable[[list[str]], RunConfig]"
) -> "list[RunConfig]":
    """Return the run of each phase, in a folder of its own in `out`, before any is begun.

    Where `overrides` resume, a complete phase is left as it is: one command goes on wherever it was
    stopped.

    Args:
        phases: overrides of `di4c train` for each phase, by the name of its folder.
        overrides: as typed; they hold for every phase, over its own.
        out: the folder of the folders.
        compose: returns the run that overrides describe.

    Raises:
        UserError: for phases that are no such mapping, that have phases or a folder themselves, or
            need several processes, and as `with_student` and `compose`.
    """
    if not (
        isinstance(phases, Mapping)
        and phases
        and all(isinstance(o, list) and all(isinstance(v, str) for v in o) for o in phases.values())
    ):
        raise UserError(
            "phases are options for each run by its name: phases={NAME: ['key=value', ...]}"
        )
    typed = [override for override in overrides if key(override) not in OF_COMMAND]
    start = [override for override in overrides if key(override) == "student"]
    students: dict[str, str] = {}
    runs: list[RunConfig] = []
    for name, own in phases.items():
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UserError(f"the name of a phase is that of a folder in {out}, not {name!r}")
        if any(key(override) == "out" for override in own):
            raise UserError(f"phase {name}: its folder is {out / name}: leave out its out=")
        options = [with_student(override, students) for override in own]
        # A teacher or student that is an earlier phase's stays so, whatever was typed.
        fixed = {key(override) for override in own if override.partition("=")[2].startswith("@")}
        options += [override for override in typed if key(override) not in fixed]
        options += [] if any(key(override) == "student" for override in own) else start
        run = compose([*options, f"out={json.dumps(str(out / name))}"])
        if run.info["phases"] is not None:
            raise UserError(f"phase {name} has phases itself: give theirs in its place")
        if run.training.devices != 1:
            raise UserError(
                "phases run on one process; on several, run them one by one: student=FILE"
            )
        students[name] = json.dumps(str(run.result))
        start = [f"student={students[name]}"]
        runs.append(run)
    return runs


def check_models(runs: "Sequence[RunConfig]") -> None:
    """Refuse models that a phase cannot use, before the first phase begins.

    They are files that neither exist nor are made by an earlier phase, and students of an earlier
    phase whose host or latent is not the one that this phase names.

    Raises:
        UserError: naming the option.
    """
    from di4c_plugin.networks.latent import same_options

    made: dict[str, RunConfig] = {}
    for run in runs:
        for option in MODELS:
            source = run.info.get(option)
            if source and source not in made:
                check_model_file(option, str(source))
        if (start := made.get(str(run.info["student"]))) is not None:
            before, host = start.info["host"]["name"], run.info["host"]["name"]
            if host != before:
                raise UserError(f"{run.out.name} goes on from {start.out.name}: host={before}")
            before, latent = start.info["latent"], run.info["latent"]
            if latent is not None and before is not None and not same_options(before, latent):
                raise UserError(
                    f"{run.out.name} goes on from {start.out.name}, whose latent is {before}, "
                    f"not {latent}"
                )
        made[str(run.result)] = run


def with_student(override: str, students: Mapping[str, str]) -> str:
    """Return an override of a phase, with `@NAME` replaced by the student of that earlier phase.

    Args:
        override: key=value.
        students: quoted paths, by the names of the phases so far.

    Raises:
        UserError: if there is no such phase before this one.
    """
    option, _, value = override.partition("=")
    if key(override) not in MODELS or not value.startswith("@"):
        return override
    if value[1:] not in students:
        known = ", ".join(students) or "none"
        raise UserError(f"{override}: no phase {value[1:]!r} is before it; there are {known}")
    return f"{option}={students[value[1:]]}"


def key(override: str) -> str:
    """Return the option that an override sets; of an option in `phases`, that group."""
    name = override.lstrip("+~").partition("=")[0]
    return "phases" if name.startswith("phases.") else name
