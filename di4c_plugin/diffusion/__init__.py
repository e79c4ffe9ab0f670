"""Forward processes q and their exact posteriors."""

import inspect
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
from di4c_plugin.errors import UserError

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
    """Make the process that `Process.config` describes.

    Raises:
        UserError: for an unknown process or schedule, of which the message lists those that exist,
            and for options that it does not take or that are missing.
    """
    options = dict(config)
    name = options.pop("name")
    what = f"process {name!r}"
    if name == "gaussian":
        return _made(what, DiscretisedGaussian, options)
    if name not in SCHEDULED:
        raise UserError(f"unknown process {name!r}; there are {PROCESSES}")
    kind, default, own = SCHEDULED[name]
    schedule = options.pop("schedule", default)
    if schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; there are {', '.join(sorted(SCHEDULES))}")
    chosen = {key: options.pop(key) for key in ("num_tokens", *own) if key in options}
    # What is left are parameters of the schedule.
    rest = _made(f"{what} with schedule {schedule!r}", SCHEDULES[schedule], options)
    return _made(what, kind, chosen | {"schedule": rest})


def _made(what: str, kind: Callable[..., Any], options: dict[str, Any]) -> Any:
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise UserError(f"{what}: {error}") from error
    return kind(**options)


PROCESSES = "absorbing, gaussian, uniform, confidence, halton"
# By name: the class, its schedule by default, its options besides the tokens and the schedule.
SCHEDULED: dict[str, tuple[Callable[..., Process], str, tuple[str, ...]]] = {
    "absorbing": (Absorbing, "loglinear", ("mask",)),
    "confidence": (Confidence, "arccos", ("mask", "temperature")),
    "halton": (Halton, "arccos", ("mask", "grid", "randomize")),
    "uniform": (Uniform, "loglinear", ("leave_one_out",)),
}
