"""Forward processes q and their exact posteriors."""

from typing import Any

from di4c_plugin.diffusion.absorbing import Absorbing
from di4c_plugin.diffusion.categorical import sample_categorical
from di4c_plugin.diffusion.gaussian import DiscretisedGaussian
from di4c_plugin.diffusion.process import LOG_ZERO, MatrixProcess, Process
from di4c_plugin.diffusion.schedule import (
    SCHEDULES,
    Arccos,
    Cosine,
    DuoCosine,
    LogLinear,
    Schedule,
    time_grid,
)
from di4c_plugin.diffusion.uniform import Uniform
from di4c_plugin.errors import UserError

__all__ = [
    "LOG_ZERO",
    "SCHEDULES",
    "Absorbing",
    "Arccos",
    "Cosine",
    "DiscretisedGaussian",
    "DuoCosine",
    "LogLinear",
    "MatrixProcess",
    "Process",
    "Schedule",
    "Uniform",
    "build_process",
    "sample_categorical",
    "time_grid",
]


def build_process(config: dict[str, Any]) -> Process:
    """Make the process that `Process.config` describes.

    Raises:
        UserError: for an unknown process or schedule; the message lists those that exist.
    """
    options = dict(config)
    name = options.pop("name")
    if name == "gaussian":
        return DiscretisedGaussian(**options)
    if name not in ("absorbing", "uniform"):
        raise UserError(f"unknown process {name!r}; there are absorbing, gaussian, uniform")
    num_tokens, schedule = options.pop("num_tokens"), options.pop("schedule", "loglinear")
    if schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; there are {', '.join(sorted(SCHEDULES))}")
    if name == "uniform":
        out = options.pop("leave_one_out", False)
        return Uniform(num_tokens, SCHEDULES[schedule](**options), leave_one_out=out)
    mask = options.pop("mask", None)
    return Absorbing(num_tokens, SCHEDULES[schedule](**options), mask=mask)
