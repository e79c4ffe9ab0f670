"""Phases of `di4c train`: runs one after the other, each from the student of the one before.

`teacher=@NAME` and `student=@NAME` name the student of an earlier phase; a phase with
`student=null` starts from its teacher.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.launch import check_model_file

if TYPE_CHECKING:
    from di4c_plugin.diffusion import Process
    from di4c_plugin.training.compose import RunConfig

    Latent = Mapping[str, Any] | None

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
    """Refuse phases that cannot work, before the first one begins.

    Models are files that neither exist nor are made by an earlier phase, and students of an earlier
    phase on a host with other networks. A method or latent is refused if it would be under each
    process that the phases before it allow: the process is the teacher's, which is not read here.

    Raises:
        UserError: naming the phases.
    """
    from di4c_plugin.diffusion import NAMES, build_process

    processes = [build_process({"name": name, "num_tokens": 256}) for name in NAMES]
    made: dict[Path, Made] = {}
    for run in runs:
        host, possible, start = run.info["host"]["name"], processes, None
        latents: dict[Process, Latent] = {}
        for option in MODELS:
            if not (source := run.info.get(option)):
                continue
            earlier = made.get(user_path(source.removeprefix("file:")).resolve())
            if earlier is None:
                check_model_file(option, source)
                continue
            before = earlier.run.info["host"]["name"]
            if lookup("host", host).family.name != lookup("host", before).family.name:
                raise UserError(
                    f"phase {run.out.name} has host={host}, but its {option} is of phase "
                    f"{earlier.run.out.name} with host={before}"
                )
            possible = [process for process in possible if process in earlier.latents]
            start = earlier if option == "student" else start
        refusals = []
        for process in possible:
            try:
                latents[process] = student_latent(run, process, start)
            except UserError as error:
                refusals.append(error)
        if refusals and not latents:
            after = "" if start is None else f" goes on from {start.run.out.name}"
            raise UserError(f"phase {run.out.name}{after}: {refusals[0]}")
        made[run.result.resolve()] = Made(run, latents)


@dataclass(frozen=True)
class Made:
    """A student that a phase makes: its run, and its latent by each process that it may have."""

    run: "RunConfig"
    latents: "dict[Process, Latent]"


def student_latent(run: "RunConfig", process: "Process", start: Made | None) -> "Latent":
    """Return the latent of the student that a phase makes, see `api.distill`; {}: unknown.

    Args:
        run: of the phase.
        process: of its teacher.
        start: the student of an earlier phase that it goes on from, or None.

    Raises:
        UserError: as `api.distill`.
    """
    from di4c_plugin.training.build import make_algorithm
    from di4c_plugin.training.recipes import recipe
    from di4c_plugin.training.start import check_latent, check_method, latent_of

    host, latent = lookup("host", run.info["host"]["name"]), run.info["latent"]
    defaults = recipe(host.name, run.info["algo"]["name"])
    method = make_algorithm(defaults.algo_with(run.info["algo"]), process)
    check_method(method, run.info["algo"]["name"], latent)
    role = method.roles["student"]
    if not run.info["student"]:
        return latent_of(role, defaults.latent_with(latent), host.latent)
    before = {} if start is None else start.latents[process]
    if before == {}:  # of a file
        return latent or {}
    check_latent(role, latent, before)
    return before


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
