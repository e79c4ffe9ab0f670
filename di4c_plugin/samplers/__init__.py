"""Samplers: pure functions from noise to data."""

from di4c_plugin.samplers.ancestral import ancestral
from di4c_plugin.samplers.base import Callback, Step
from di4c_plugin.samplers.guidance import Guided
from di4c_plugin.samplers.hybrid import hybrid
from di4c_plugin.samplers.last_step import denoise
from di4c_plugin.samplers.maskgit import halton, maskgit
from di4c_plugin.samplers.steered import steered
from di4c_plugin.samplers.tau_leaping import tau_leaping

__all__ = [
    "Callback",
    "Guided",
    "Step",
    "ancestral",
    "denoise",
    "halton",
    "hybrid",
    "maskgit",
    "steered",
    "tau_leaping",
]
