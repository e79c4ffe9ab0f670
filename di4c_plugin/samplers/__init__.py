"""Samplers: pure functions from noise to data."""

from di4c_plugin.samplers.ancestral import ancestral
from di4c_plugin.samplers.base import Callback, Step
from di4c_plugin.samplers.hybrid import hybrid
from di4c_plugin.samplers.last_step import denoise

__all__ = ["Callback", "Step", "ancestral", "denoise", "hybrid"]
