"""Stops a run at the first loss or weight that is not finite, before it is saved."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import local

EVERY = 10  # updates between two checks, each of which waits for the accelerator
NEVER = 2**62


class FirstFault:
    """The first update whose loss is not finite, kept on the device of the losses."""

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def note(self, loss: Tensor, update: int) -> None:
        """Record the loss of a micro-step of `update`, from 0, without waiting for the device."""
        never = torch.full((), NEVER, dtype=torch.int64, device=loss.device)
        fault = torch.where(loss.detach().isfinite().all(), never, update)
        self.first = fault if self.first is None else torch.minimum(self.first, fault)

    def check(self, minimum: Callable[[Tensor], Tensor] = lambda first: first) -> None:
        """Raise if a loss was not finite.

        Args:
            minimum: over all processes; a collective operation.

        Raises:
            UserError: with the number of the update, from 1.
        """
        first = NEVER if self.first is None else int(minimum(self.first))
        if first < NEVER:
            raise UserError(f"the loss is not finite at update {first + 1}; a smaller lr may help")


def check_finite(
    networks: Mapping[str, nn.Module],
    update: int,
    minimum: Callable[[Tensor], Tensor] = lambda flags: flags,
) -> None:
    """Raise UserError for the first weight that is not finite.

    Args:
        networks: by role.
        update: the number of updates done.
        minimum: over all processes, each of which may hold a shard of each weight.
    """
    for role, network in networks.items():
        weights = dict(network.named_parameters())
        finite = [local(weight.detach()).isfinite().all() for weight in weights.values()]
        flags = minimum(torch.stack(finite).int()).tolist() if finite else []
        for name, flag in zip(weights, flags, strict=True):
            if not flag:
                raise UserError(
                    f"{name} of the {role} is not finite at update {update}; a smaller lr may help"
                )
