"""Teachers by scheme: `scheme:rest` goes to the teacher source registered as `scheme`."""

import inspect
import os

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup


def has_scheme(source: str) -> bool:
    """Return whether a source is `scheme:rest`, and not a path with a colon in it."""
    return ":" in source and not os.path.exists(source)  # noqa: PTH110, which any text may be given to


def load_scheme(source: str, *, ema: bool = True) -> Model:
    """Return the model that `scheme:rest` names.

    Args:
        source: see `has_scheme`.
        ema: take the moving averages, where the teacher source takes this option.

    Raises:
        UserError: for an unknown scheme, ema=False where the teacher source does not take it, or as
            the teacher source itself says.
    """
    scheme, _, rest = source.partition(":")
    load = lookup("teacher source", scheme)
    parameters = inspect.signature(load).parameters.values()
    if any(p.name == "ema" or p.kind is p.VAR_KEYWORD for p in parameters):
        model: Model = load(rest, ema=ema)
    elif ema:
        model = load(rest)
    else:
        raise UserError(f"{source}: source {scheme!r} has one set of weights: leave out ema=false")
    return model
