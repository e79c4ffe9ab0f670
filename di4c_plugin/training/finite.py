"""Numbers that are not finite end a run, before they are kept."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import local

EVERY = 10  # updates between two looks, each of which waits for the accelerator
NEVER = 2**62


class FirstFault:
    """Which update was the first whose loss is not finite; kept where the losses are made."""

    def __init__(self) -> None:
        self.first: Tensor | None = None

    def note(self, loss: Tensor, update: int) -> None:
        """Look at the loss of a micro-step of an update, counted from 0, without waiting for it."""
        never = torch.full((), NEVER, dtype=torch.int64, device=loss.device)
        fault = torch.where(loss.detach().isfinite().all(), never, update)
        self.first = fault if self.first is None else torch.minimum(self.first, fault)

    def check(self, least: Callable[[Tensor], Tensor] = lambda first: first) -> None:
        """Refuse to go on after a fault.

        Args:
            least: of the numbers of all processes; a collective operation.

        Raises:
            UserError: with the number of the update, from 1.
        """
        first = NEVER if self.first is None else int(least(self.first))
        if first < NEVER:
            raise UserError(f"the loss is not finite at update {first + 1}; a smaller lr may help")


def check_finite(
    networks: Mapping[str, nn.Module],
    update: int,
    least: Callable[[Tensor], Tensor] = lambda flags: flags,
) -> None:
    """Refuse to keep weights that are not finite; raises UserError naming the first.

    Args:
        networks: by role.
        update: how many there were.
        least: of the numbers of all processes, each of which may have a shard of each weight.
    """
    for role, network in networks.items():
        weights = dict(network.named_parameters())
        finite = [local(weight.detach()).isfinite().all() for weight in weights.values()]
        flags = least(torch.stack(finite).int()).tolist() if finite else []
        for name, flag in zip(weights, flags, strict=True):
            if not flag:
                raise UserError(
                    f"{name} of the {role} is not finite at update {update}; a smaller lr may help"
                )
