"""Lets a latent into the transformers of MaskGIT and Halton-MaskGIT, by hooks.

The injectors are those of `di4c_plugin.networks.latent`, a plugin's too; here is where their doors
are in these two networks. Nothing of a host is edited or copied, and the weights of a student have
the names of the released one (`latent_projection.0.weight`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import own_injector
from di4c_plugin.networks.latent import Entry, LatentInjector

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Doors:
    """The sub-modules of a network at which a latent enters.

    Attributes:
        embedding: returns embeddings (B, D + others, E), the positions first.
        sequence: takes the residual stream (B, L, H) as its first argument, before block 0.
        output: returns it, after the last block.
        norms: normalise the inputs of all sub-layers, two a block, and of what follows the last.
        blocks: take the residual stream and what else has B rows; empty if they are not called, so
            that a latent cannot enter late.
        last: takes, after the blocks, what else has B rows; None if there is nothing.
    """

    embedding: nn.Module
    sequence: nn.Module
    output: nn.Module
    norms: tuple[nn.Module, ...]
    blocks: tuple[nn.Module, ...] = ()
    last: nn.Module | None = None


class GridHooks:
    """The hooks of one network; `entry` lives from the start of a forward pass to its end."""

    def __init__(self, injector: LatentInjector, mask: int, num_blocks: int) -> None:
        self.injector, self.mask, self.num_blocks = injector, mask, num_blocks
        self.clear()

    def clear(self) -> None:
        """Keep nothing alive between passes."""
        self.entry: Any = None
        self.active = torch.empty(0)

    def register(self, network: nn.Module, doors: Doors) -> None:
        """Hang every hook on its sub-module; a bound method or partial is copied with it."""
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        network.register_forward_hook(self.end)
        doors.embedding.register_forward_hook(self.embedded)
        first = self.num_blocks - (self.injector.blocks or self.num_blocks)
        if self.injector.blocks is None:
            doors.sequence.register_forward_pre_hook(partial(self.entered, 0), with_kwargs=True)
        else:
            for index, block in list(enumerate(doors.blocks))[first:]:
                hook = partial(self.entered, index)
                block.register_forward_pre_hook(hook, with_kwargs=True)
        for layer, norm in list(enumerate(doors.norms))[2 * first :]:
            norm.register_forward_hook(partial(self.normalised, layer))
        doors.output.register_forward_hook(self.left)
        if doors.last is not None:
            doors.last.register_forward_pre_hook(self.widened, with_kwargs=True)

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take `latent` from the arguments; missing, it is drawn for each example.

        With n latents for each row, all arguments are repeated, unless the latent enters late.
        """
        kwargs = dict(kwargs)
        latent = kwargs.pop("latent", None)
        x = args[0] if args else next(iter(kwargs.values()))
        if latent is None:
            latent = torch.rand(len(x), *self.injector.latent_shape, device=x.device)
        self.entry = Entry(self.injector, latent, len(x), self.num_blocks)
        self.active = x.flatten(1) == self.mask
        if self.injector.blocks is None:
            args, kwargs = self._widen(args, kwargs)
            self.active = self.entry.widen(self.active)
            self.entry.rows, self.entry.copies = len(latent), 1
        return args, kwargs

    def end(self, network: nn.Module, args: Any, output: Any) -> None:
        """See `clear`."""
        self.clear()

    def embedded(self, module: nn.Module, args: Any, e: Tensor) -> Tensor:
        """See `LatentInjector.on_embedding`; what is no position (a class) stays as it is."""
        d = self.active.shape[1]
        return torch.cat([self.entry.at_embedding(e[:, :d], self.active), e[:, d:]], 1)

    def entered(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """See `LatentInjector.on_sequence`; from the block it enters at there are n B rows."""
        h = self.entry.at_block(index, args[0], self.active)
        args, kwargs = self._widen(args[1:], kwargs)
        return (self.entry.widen(h), *args), kwargs

    def normalised(self, layer: int, module: nn.Module, args: Any, h: Tensor) -> Tensor:
        """See `LatentInjector.on_norm`."""
        normed: Tensor = self.entry.at_norm(h, layer)
        return normed

    def left(self, module: nn.Module, args: Any, h: Tensor) -> Tensor:
        """See `LatentInjector.on_output`."""
        output: Tensor = self.entry.at_output(h)
        return output

    def widened(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """Repeat what still has B rows."""
        return self._widen(args, kwargs)

    def _widen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        def widen(value: Any) -> Any:
            return self.entry.widen(value) if isinstance(value, Tensor) else value

        return tuple(map(widen, args)), {name: widen(value) for name, value in kwargs.items()}


def let_in(network: nn.Module, injector: LatentInjector, doors: Doors, mask: int) -> None:
    """Let a latent into `network`, in place; its forward pass then takes `latent=`.

    With n latents for each row of the other arguments (lambda-major), the logits have as many rows
    as the latents. Without `latent=` (as a host's own sampler calls it) one is drawn for each row.

    Args:
        network: of the layout that `doors` tells.
        injector: its parts become the network's own.
        doors: where it enters.
        mask: the token that means "unknown".

    Raises:
        UserError: if the network has a latent already, the injector has weights outside its
            sub-modules, or enters late where no block can be hooked.
    """
    if injector.blocks is not None and not doors.blocks:
        raise UserError("a latent cannot enter the blocks of this network late: latent.blocks=null")
    own_injector(network, injector)
    num_blocks = (len(doors.norms) - 1) // 2
    GridHooks(injector, mask, num_blocks).register(network, doors)
