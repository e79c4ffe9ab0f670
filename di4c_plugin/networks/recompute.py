"""Activation checkpointing of a network's pass."""

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, without activations: it is called again in the backward pass.

    The second call runs to its end: torch would stop it early by an exception, which TorchScript,
    used by the hosts' networks, turns into an error.
    """
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *args, use_reentrant=False)
