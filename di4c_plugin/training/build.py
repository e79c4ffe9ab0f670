"""Makes the algorithm that a config describes."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.diffusion import Process
from di4c_plugin.plugins import make


def make_algorithm(config: Mapping[str, Any], process: Process) -> Algorithm:
    """Return the algorithm {"name": ..., **options} for `process`; raises UserError as `make`."""
    algorithm: Algorithm = make("algorithm", config, process)
    return algorithm
