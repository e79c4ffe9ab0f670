"""Phases of `di4c train`: runs one after the other, each from the student of the one before.

A phase that says `teacher=@NAME` or `student=@NAME` has the student of an earlier phase as that;
with `student=null` it starts from its teacher.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from di4c_plugin.errors import UserError

OWN = ("experiment", "out", "phases", "student")


def run_phases(
    phases: Any, overrides: Sequence[str], out: Path, run: Callable[[list[str]], int]
) -> int:
    """Run each phase in a folder of its own in `out`; return the first exit code that is not 0.

    A phase that is complete is found so and left as it is where `overrides` resume, so that one
    command goes on wherever it was stopped.

    Args:
        phases: overrides of `di4c train` for each phase, by the name of its folder.
        overrides: what was typed; it goes over every phase.
        out: the folder of the folders.
        run: runs the overrides of one phase, which leaves its student in out/NAME.

    Raises:
        UserError: for phases that are no such mapping, and as `settled`.
    """
    from di4c_plugin.training.folder import ADAPTER, STUDENT

    if not (
        isinstance(phases, Mapping)
        and all(isinstance(o, list) and all(isinstance(v, str) for v in o) for o in phases.values())
    ):
        raise UserError("phases are options for each run by its name: phases.NAME=[key=value, ...]")
    typed = [o for o in overrides if key(o) not in OWN]
    if any(key(o) == "training.devices" and not o.endswith("=1") for o in typed):
        raise UserError("phases run on one process; on several, run them one by one: student=FILE")
    start = [o for o in overrides if key(o) == "student"]
    made: dict[str, str] = {}
    for name, own in phases.items():
        folder = out / str(name)
        said = [settled(o, made) for o in own]
        # What is of an earlier phase stays so whatever was typed.
        fixed = {key(o) for o in own if o.partition("=")[2].startswith("@")}
        begin = [] if any(key(o) == "student" for o in own) else start
        over = [o for o in typed if key(o) not in fixed]
        code = run([*said, *over, *begin, f"out={json.dumps(str(folder))}"])
        if code:
            return code
        left = [folder / name for name in (ADAPTER, STUDENT)]
        made[str(name)] = json.dumps(str(left[0] if left[0].exists() else left[1]))
        start = [f"student={made[str(name)]}"]
    return 0


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
