"""Activation checkpointing of a network's pass."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, which keeps nothing and is called again in the backward pass.

    The second call runs to its end: torch would stop it by an exception as soon as it has what it
    needs, and TorchScript, which the hosts' networks use, turns that exception into an error.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *args, use_reentrant=False)
