"""Checks of a sampling request against the model and the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.vocabulary import check_models
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError, is_of_memory, reason
from di4c_plugin.samplers.known import is_whole


def check_labels(model: Model, cond: Tensor | None, n: int) -> Tensor | None:
    """Return class labels (n,), int64, that the model knows.

    Raises:
        UserError: for others, naming the known ones.
    """
    if cond is None:
        return None
    classes = model.network.num_classes
    if not classes:
        raise UserError("this model takes no class labels")
    if not is_whole(cond):
        raise UserError(f"class labels are a tensor of whole numbers, not {cond!r:.60}")
    if cond.shape != (n,):
        raise UserError(f"{n} samples take {n} class labels, not a tensor of {tuple(cond.shape)}")
    cond = cond.long()
    if cond.min() < -1 or cond.max() >= classes:
        raise UserError(f"class labels of this model are 0 ... {classes - 1}, or -1 for none")
    return cond


def check_partners(model: Model, options: dict[str, Any]) -> None:
    """Refuse other models, such as the teacher of "hybrid", that have different states.

    Raises:
        UserError: naming the option.
    """
    for name, partner in options.items():
        if not isinstance(partner, Model):
            continue
        same = partner.process.forward == model.process.forward
        if not same or partner.network.positions != model.network.positions:
            raise UserError(f"{name} does not go with this model: other data or another process")
        check_models(model.info, partner.info, "this model", name)


IMPROBABLE = "the predictions of this model are no probabilities"


@contextmanager
def drawing() -> Iterator[None]:
    """Explain torch's errors for exhausted memory, and for lookups of invalid draws.

    Raises:
        UserError: in place of torch's error about an index or an allocation.
    """
    try:
        yield
    except (IndexError, MemoryError, RuntimeError) as error:
        if is_of_memory(error):
            advice = "not enough memory: draw fewer samples at once (batch_size), in fewer steps"
            raise UserError(advice) from error
        if isinstance(error, RuntimeError) and "out of bounds" not in str(error):
            raise
        raise UserError(IMPROBABLE) from error


def check_drawn(x: Tensor, process: Process) -> Tensor:
    """Return x (n, D), if it holds only tokens of the data.

    Raises:
        UserError: for remaining masks, and numbers that are no tokens, as from a network whose
            outputs are not finite.
    """
    wrong = (x < 0) | (x >= process.num_tokens)
    mask = getattr(process, "mask", None)
    if mask is not None:
        wrong |= x == mask
    if wrong.any():
        raise UserError(f"{int(wrong.sum())} of {x.numel()} tokens were not drawn: {IMPROBABLE}")
    return x


def usable(device: str | torch.device) -> torch.device:
    """Return the device, after a test that it works.

    Draws need float64. For a device without it, as Apple's mps, the CPU is returned, and this is
    announced.

    Raises:
        UserError: if this machine, or this build of torch, has no such device.
    """
    try:
        usable_device = torch.empty(0, device=device).device
        torch.Generator(usable_device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot use device {str(device)!r:.80}: {reason(error)}") from error
    try:
        torch.empty(0, dtype=torch.float64, device=usable_device)
    except (RuntimeError, TypeError):
        announce_once(f"device {str(device)!r} has no float64, which draws need: using the CPU")
        return torch.device("cpu")
    return usable_device
