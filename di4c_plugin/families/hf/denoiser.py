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

    Sequences may be shorter than the network's, and have padding behind them: positions with the
    token `pad`, which no text has. They are seen by nobody, and stay what they are.

    Args:
        network: with a `Head`.
        process: masked diffusion over all V ids.
        shift: whether the logits at position i are of token i + 1.
        block: size of the blocks that see only themselves and those before; None: all see all.
        argument: name of the argument that takes a mask (B, 1, D, D).
        pad: id of padding; None: there is none.
        first: the position that positions are counted from.
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
        found: Tensor = output.logits if hasattr(output, "logits") else output[0]
        found = found[:, : x_t.shape[1]]  # without what a latent has appended
        return torch.cat([found[:, :1], found[:, :-1]], 1) if self.shift else found

    def arguments(self, x_t: Tensor) -> dict[str, Any]:
        """Return what the network takes beside the ids."""
        b, d = x_t.shape
        found: dict[str, Any] = {}
        if "position_ids" in self.takes:
            # Always: RoBERTa would count them by the ids.
            place = torch.arange(self.first, self.first + d, device=x_t.device)
            found["position_ids"] = place.expand(b, -1)
        if "use_cache" in self.takes:
            found["use_cache"] = False
        seen = None if self.pad is None else x_t != self.pad
        if self.block is not None:
            block = torch.arange(d, device=x_t.device) // self.block
            sees = (block[:, None] >= block).expand(b, 1, d, d)
            found[self.argument] = additive(
                sees if seen is None else sees & seen[:, None, None], self
            )
        elif seen is not None and not bool(seen.all()):
            if self.argument == "attention_mask":
                found["attention_mask"] = seen.long()
            else:
                found[self.argument] = additive(seen[:, None, None].expand(b, 1, d, d), self)
        return found


def additive(sees: Tensor, module: nn.Module) -> Tensor:
    """Return a mask (B, 1, D, D) as 0 where it is true and else the least number, as logits are.

    Each position sees itself at least: a row of padding would be no distribution.
    """
    dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
    own = torch.eye(sees.shape[-1], dtype=torch.bool, device=sees.device)
    zero = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return zero.masked_fill(~(sees | own), torch.finfo(dtype).min)
