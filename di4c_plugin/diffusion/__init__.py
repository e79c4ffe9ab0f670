"""Forward processes q and their exact posteriors."""

from collections.abc import Callable
from typing import Any

from di4c_plugin.diffusion.absorbing import Absorbing
from di4c_plugin.diffusion.categorical import sample_categorical
from di4c_plugin.diffusion.confidence import Confidence, Ordered
from di4c_plugin.diffusion.gaussian import DiscretisedGaussian
from di4c_plugin.diffusion.halton import Halton
from di4c_plugin.diffusion.process import LOG_ZERO, MatrixProcess, Process
from di4c_plugin.diffusion.schedule import (
    SCHEDULES,
    Arccos,
    Cosine,
    DuoCosine,
    LogLinear,
    MaskedSquare,
    Root,
    Schedule,
    Square,
    time_grid,
)
from di4c_plugin.diffusion.uniform import Uniform
from di4c_plugin.errors import UserError, refusing
from di4c_plugin.options import fitted, parameters
from di4c_plugin.values import nearest, shown

__all__ = [
    "LOG_ZERO",
    "SCHEDULES",
    "Absorbing",
    "Arccos",
    "Confidence",
    "Cosine",
    "DiscretisedGaussian",
    "DuoCosine",
    "Halton",
    "LogLinear",
    "MaskedSquare",
    "MatrixProcess",
    "Ordered",
    "Process",
    "Root",
    "Schedule",
    "Square",
    "Uniform",
    "build_process",
    "sample_categorical",
    "time_grid",
]


def build_process(config: dict[str, Any]) -> Process:
    """Return the process that `Process.config` describes.

    Raises:
        UserError: for an unknown process or schedule (the message lists the known ones), and for
            unknown or missing options.
    """
    options = dict(config)
    name = options.pop("name", None)
    what = f"process {name!r}"
    if name == "gaussian":
        return _made(what, DiscretisedGaussian, options)
    if not isinstance(name, str) or name not in SCHEDULED:
        raise UserError(
            f"unknown process {shown(name)}; there are {PROCESSES}{nearest(name, NAMES)}"
        )
    kind, default, accepted = SCHEDULED[name]
    schedule = options.pop("schedule", default)
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        known = ", ".join(sorted(SCHEDULES)) + nearest(schedule, SCHEDULES)
        raise UserError(f"unknown schedule {shown(schedule)}; there are {known}")
    chosen = {key: options.pop(key) for key in ("num_tokens", *accepted) if key in options}
    # The remaining options are parameters of the schedule.
    of_schedule = f"{what} with schedule {schedule!r}"
    names = [*accepted, *(parameters(SCHEDULES[schedule]) or ())]
    unknown = next((key for key in options if key not in names), None)
    if unknown is not None:
        hint = nearest(unknown, names)
        problem = f"got an unexpected keyword argument {shown(unknown)}{hint}"
        raise UserError(f"{of_schedule}: {problem}; it takes {', '.join(names)}")
    built_schedule = _made(of_schedule, SCHEDULES[schedule], options)
    return _made(what, kind, chosen | {"schedule": built_schedule})


def _made(what: str, kind: Callable[..., Any], options: dict[str, Any]) -> Any:
    options = fitted(kind, options, what)
    with refusing(f"{what} cannot be made with these options"):
        return kind(**options)


NAMES = ("absorbing", "gaussian", "uniform", "confidence", "halton")
PROCESSES = ", ".join(NAMES)
# By name: the class, its schedule by default, its options besides the tokens and the schedule.
SCHEDULED: dict[str, tuple[Callable[..., Process], str, tuple[str, ...]]] = {
    "absorbing": (Absorbing, "loglinear", ("mask", "barred")),
    "confidence": (Confidence, "arccos", ("mask", "temperature")),
    "halton": (Halton, "arccos", ("mask", "grid", "randomize")),
    "uniform": (Uniform, "loglinear", ("leave_one_out",)),
}
