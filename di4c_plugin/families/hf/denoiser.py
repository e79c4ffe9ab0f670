"""A masked language model as a `Denoiser`: shifted logits, masks of attention, positions."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import NetworkDenoiser


class HFDenoiser(NetworkDenoiser):
    """Log p_{0|t} by `network(ids (B, D), ...) -> object with .logits (B, D, V)`.

    Sequences may be shorter than the network's, and end in padding: positions with the token `pad`,
    which no text has. They are hidden from attention, and never change.

    Args:
        network: with a `Head`.
        process: masked diffusion over all V ids.
        shift: whether the logits at position i are of token i + 1.
        block: size of the blocks, each of which sees itself and earlier ones; None: all see all.
        argument: name of the argument that takes a mask (B, 1, D, D).
        pad: id of padding; None: there is none.
        first: index of the first position.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        *,
        shift: bool = False,
        block: int | None = None,
        argument: str = "attention_mask",
        pad: int | None = None,
        first: int = 0,
    ) -> None:
        super().__init__(network, process)
        self.shift, self.block, self.argument = shift, block, argument
        self.pad, self.first = pad, first
        self.takes = frozenset(inspect.signature(type(network).forward).parameters)

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `NetworkDenoiser.logits`.

        Raises:
            UserError: for class labels.
        """
        if cond is not None and bool((cond >= 0).any()):
            raise UserError("a masked language model takes no class labels")
        options = self.arguments(x_t) | ({} if latent is None else {"latent": latent})
        output = self.network(x_t, **options)
        logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
        logits = logits[:, : x_t.shape[1]]  # without what a latent has appended
        return torch.cat([logits[:, :1], logits[:, :-1]], 1) if self.shift else logits

    def arguments(self, x_t: Tensor) -> dict[str, Any]:
        """Return the network's arguments beside the ids."""
        b, d = x_t.shape
        options: dict[str, Any] = {}
        if "position_ids" in self.takes:
            # Always: RoBERTa would derive them from the ids.
            positions = torch.arange(self.first, self.first + d, device=x_t.device)
            options["position_ids"] = positions.expand(b, -1)
        if "use_cache" in self.takes:
            options["use_cache"] = False
        visible = None if self.pad is None else x_t != self.pad
        if self.block is not None:
            block = torch.arange(d, device=x_t.device) // self.block
            allowed = (block[:, None] >= block).expand(b, 1, d, d)
            options[self.argument] = additive(
                allowed if visible is None else allowed & visible[:, None, None], self
            )
        elif visible is not None and not bool(visible.all()):
            if self.argument == "attention_mask":
                options["attention_mask"] = visible.long()
            else:
                options[self.argument] = additive(visible[:, None, None].expand(b, 1, d, d), self)
        return options


def additive(allowed: Tensor, module: nn.Module) -> Tensor:
    """Return an additive mask (B, 1, D, D): 0 where `allowed`, elsewhere the least number.

    Each position sees at least itself: a row of all padding would be no distribution. The dtype is
    the module's.
    """
    dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
    diagonal = torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    zero = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zero.masked_fill(~(allowed | diagonal), torch.finfo(dtype).min)
