"""Phases of `di4c train`: runs one after the other, each from the student of the one before.

A phase that says `teacher=@NAME` or `student=@NAME` has the student of an earlier phase as that;
with `student=null` it starts from its teacher.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from di4c_plugin.training.compose import RunConfig

OWN = ("experiment", "out", "phases", "student")
NAME = re.compile(r"\w[\w.-]*")  # of a folder in `out`


def compose_phases(
    phases: Any, overrides: Sequence[str], out: Path, compose: "Callable[[list[str]], RunConfig]"
) -> "list[RunConfig]":
    """Return the run of each phase, in a folder of its own in `out`, before any is begun.

    A phase that is complete is found so and left as it is where `overrides` resume, so that one
    command goes on wherever it was stopped.

    Args:
        phases: overrides of `di4c train` for each phase, by the name of its folder.
        overrides: what was typed; it goes over every phase.
        out: the folder of the folders.
        compose: returns the run that overrides describe.

    Raises:
        UserError: for phases that are no such mapping, that have phases or a folder themselves, or
            need several processes, and as `settled` and `compose`.
    """
    if not (
        isinstance(phases, Mapping)
        and phases
        and all(isinstance(o, list) and all(isinstance(v, str) for v in o) for o in phases.values())
    ):
        raise UserError(
            "phases are options for each run by its name: phases={NAME: ['key=value', ...]}"
        )
    typed = [o for o in overrides if key(o) not in OWN]
    start = [o for o in overrides if key(o) == "student"]
    made: dict[str, str] = {}
    runs: list[RunConfig] = []
    for name, own in phases.items():
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UserError(f"the name of a phase is that of a folder in {out}, not {name!r}")
        if any(key(o) == "out" for o in own):
            raise UserError(f"phase {name}: its folder is {out / name}: leave out its out=")
        said = [settled(o, made) for o in own]
        # What is of an earlier phase stays so whatever was typed.
        fixed = {key(o) for o in own if o.partition("=")[2].startswith("@")}
        begin = [] if any(key(o) == "student" for o in own) else start
        over = [o for o in typed if key(o) not in fixed]
        run = compose([*said, *over, *begin, f"out={json.dumps(str(out / name))}"])
        if run.info["phases"] is not None:
            raise UserError(f"phase {name} has phases itself: give theirs in its place")
        if run.training.devices != 1:
            raise UserError(
                "phases run on one process; on several, run them one by one: student=FILE"
            )
        made[name] = json.dumps(str(run.result))
        start = [f"student={made[name]}"]
        runs.append(run)
    return runs


def settled(override: str, made: Mapping[str, str]) -> str:
    """Return an override with the student of an earlier phase in the place of `@NAME`.

    Args:
        override: of a phase.
        made: the students of the phases before it, quoted paths, by name.

    Raises:
        UserError: if there is no such phase before it.
    """
    option, _, value = override.partition("=")
    if option not in ("teacher", "student") or not value.startswith("@"):
        return override
    if value[1:] not in made:
        known = ", ".join(made) or "none"
        raise UserError(f"{override}: no phase {value[1:]!r} is before it; there are {known}")
    return f"{option}={made[value[1:]]}"


def key(override: str) -> str:
    """Return the option that an override sets, of a nested one of `phases` the group."""
    name = override.lstrip("+~").partition("=")[0]
    return "phases" if name.startswith("phases.") else name
