"""Options of samplers, checked before anything is drawn."""

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.samplers.base import LATENTS, check_policy


def check_options(draw: Callable[..., Tensor], name: str, options: Mapping[str, object]) -> None:
    """Refuse options that the sampler does not take, missing ones it needs, and unknown policies.

    Raises:
        UserError: naming them.
    """
    given = {"process": None, "generator": None, "cond": None} | dict(options)
    try:
        inspect.signature(draw).bind(None, None, None, **given)
    except TypeError as error:
        raise UserError(f"sampler {name!r}: {error}") from error
    check_policy(options.get("latents", LATENTS))
