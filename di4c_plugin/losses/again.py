"""Activation checkpointing as losses use it."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def again(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`; it is called once more in the backward pass, and keeps nothing.

    The second call runs to its end: torch would stop it by an exception as soon as it has what it
    needs, and TorchScript, which the hosts' networks use, turns that exception into an error.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *args, use_reentrant=False)
