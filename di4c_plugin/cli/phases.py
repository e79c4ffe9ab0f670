"""Phases of `di4c train`: runs one after the other, each from the student of the one before.

`teacher=@NAME` and `student=@NAME` name the student of an earlier phase; a phase with
`student=null` starts from its teacher.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from di4c_plugin.errors import UserError

OF_COMMAND = ("experiment", "out", "phases", "student")  # typed options that no phase gets


def run_phases(
    phases: Any,
    overrides: Sequence[str],
    out: Path,
    run: Callable[[list[str]], tuple[int, Path]],
) -> int:
    """Run each phase in a folder of its own in `out`; return the first exit code that is not 0.

    Where `overrides` resume, a complete phase is left as it is: one command goes on wherever it was
    stopped.

    Args:
        phases: overrides of `di4c train` for each phase, by the name of its folder.
        overrides: as typed; they hold for every phase, over its own.
        out: the folder of the folders.
        run: runs one phase by its overrides; returns the exit code and the path of the student.

    Raises:
        UserError: for phases that are no such mapping, several processes, and as `with_student`.
    """
    if not (
        isinstance(phases, Mapping)
        and all(isinstance(o, list) and all(isinstance(v, str) for v in o) for o in phases.values())
    ):
        raise UserError("phases are options for each run by its name: phases.NAME=[key=value, ...]")
    typed = [override for override in overrides if key(override) not in OF_COMMAND]
    if any(key(o) == "training.devices" and not o.endswith("=1") for o in typed):
        raise UserError("phases run on one process; on several, run them one by one: student=FILE")
    start = [override for override in overrides if key(override) == "student"]
    students: dict[str, str] = {}
    for name, own in phases.items():
        options = [with_student(override, students) for override in own]
        # A teacher or student that is an earlier phase's stays so, whatever was typed.
        fixed = {key(override) for override in own if override.partition("=")[2].startswith("@")}
        options += [override for override in typed if key(override) not in fixed]
        options += [] if any(key(override) == "student" for override in own) else start
        code, student = run([*options, f"out={json.dumps(str(out / str(name)))}"])
        if code:
            return code
        students[str(name)] = json.dumps(str(student))
        start = [f"student={students[str(name)]}"]
    return 0


def with_student(override: str, students: Mapping[str, str]) -> str:
    """Return an override of a phase, with `@NAME` replaced by the student of that earlier phase.

    Args:
        override: key=value.
        students: quoted paths, by the names of the phases so far.

    Raises:
        UserError: if there is no such phase before this one.
    """
    option, _, value = override.partition("=")
    if option not in ("teacher", "student") or not value.startswith("@"):
        return override
    if value[1:] not in students:
        known = ", ".join(students) or "none"
        raise UserError(f"{override}: no phase {value[1:]!r} is before it; there are {known}")
    return f"{option}={students[value[1:]]}"


def key(override: str) -> str:
    """Return the option that an override sets; of an option in `phases`, that group."""
    name = override.lstrip("+~").partition("=")[0]
    return "phases" if name.startswith("phases.") else name
