"""Makes what is registered under a name. Tests: tests/training/test_build.py."""

import inspect
from collections.abc import Mapping
from typing import Any

from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup


def make(kind: str, config: Mapping[str, Any], *args: object) -> Any:
    """Call what is registered under `kind` as config["name"] with `args` and the other options.

    Raises:
        UserError: for an unknown name, and for options that it does not take or that are missing;
            the message lists those that it takes.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name is None:
        raise UserError(f"the {kind} has no name")
    factory = lookup(kind, name)
    signature = inspect.signature(factory)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        accepted = ", ".join(list(signature.parameters)[len(args) :]) or "no options"
        raise UserError(f"{kind} {name!r}: {error}; it takes {accepted}") from error
    return factory(*args, **options)


def make_algorithm(config: Mapping[str, Any], process: Process) -> Algorithm:
    """Return the algorithm {"name": ..., **options} for `process`; errors as for `make`."""
    algorithm: Algorithm = make("algorithm", config, process)
    return algorithm
