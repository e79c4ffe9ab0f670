"""The hooks by which a latent enters a network of the layout of `di4c_plugin.networks.attach`.

They hold what is known during one forward pass: the latent's `Entry`, which positions are unknown,
and the rotations.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from di4c_plugin.networks.latent import Entry, LatentInjector

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class LatentHooks:
    """The hooks of one network; `entry` lives from the start of a forward pass to its end."""

    def __init__(self, injector: LatentInjector, mask: int | None) -> None:
        self.injector, self.mask = injector, mask
        self.num_blocks = 0
        self.clear()

    def clear(self) -> None:
        """Keep nothing alive between passes."""
        self.entry: Any = None
        self.active = torch.empty(0)
        self.rotation: tuple[Tensor, ...] = ()

    def register(self, network: Any) -> None:
        """Hang every hook on its sub-module."""
        self.num_blocks = len(network.blocks)
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        network.register_forward_hook(self.end)
        network.vocab_embed.register_forward_hook(self.embedded)
        network.rotary_emb.register_forward_hook(self.rotations)
        first = self.num_blocks - (self.injector.blocks or self.num_blocks)
        for index, block in list(enumerate(network.blocks))[first:]:
            # Unlike a closure, a partial is copied with the network.
            block.register_forward_pre_hook(partial(self.entered, index), with_kwargs=True)
            for layer, norm in enumerate((block.norm1, block.norm2), 2 * index):
                norm.register_forward_hook(partial(self.normalised, layer))
        last = network.output_layer
        last.norm_final.register_forward_hook(partial(self.normalised, 2 * self.num_blocks))
        last.register_forward_pre_hook(self.finished, with_kwargs=True)

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take `latent` from the arguments; missing, it is drawn for each example.

        So the host's own samplers and metrics, which know of no latent, see a draw from the mixture
        at every call.
        """
        kwargs = dict(kwargs)
        latent = kwargs.pop("latent", None)
        x = args[0] if args else next(iter(kwargs.values()))
        if latent is None:
            latent = torch.rand(len(x), *self.injector.latent_shape, device=x.device)
        self.entry = Entry(self.injector, latent, len(x), self.num_blocks)
        return args, kwargs

    def end(self, network: nn.Module, args: Any, output: Tensor) -> None:
        """See `clear`."""
        self.clear()

    def embedded(self, module: nn.Module, args: tuple[Tensor, ...], e: Tensor) -> Tensor:
        """Let the latent in before the first block, unless it enters at a later one."""
        x = args[0]
        every = torch.ones_like(x, dtype=torch.bool)
        self.active = every if self.mask is None else x == self.mask
        return self._before(0, self.entry.at_embedding(e, self.active))

    def rotations(
        self, module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Keep the rotations of positions, also where the latent has appended to them."""
        h, positions = args[0], self.active.shape[1]
        # The module caches its tables: they may be of another device, or of inference mode.
        self.rotation = tuple(table.to(h.device)[:, :positions].clone() for table in output)
        return self._rotation(h.shape[1])

    def entered(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """Let the latent in before the block it enters at; from there on, n B rows."""
        h, *others = args
        if index:
            h = self._before(index, h)
        length = h.shape[1]
        moved = {name: self._moved(value, length) for name, value in kwargs.items()}
        return (h, *(self._moved(value, length) for value in others)), moved

    def normalised(self, layer: int, module: nn.Module, args: Any, h: Tensor) -> Tensor:
        """See `LatentInjector.on_norm`."""
        normed: Tensor = self.entry.at_norm(h, layer)
        return normed

    def finished(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """See `LatentInjector.on_output`."""
        h, *others = args
        moved = {name: self._moved(value, 0) for name, value in kwargs.items()}
        return (self.entry.at_output(h), *(self._moved(value, 0) for value in others)), moved

    def _before(self, index: int, h: Tensor) -> Tensor:
        entered: Tensor = self.entry.at_block(index, h, self.active)
        return entered

    def _moved(self, value: Any, length: int) -> Any:
        """Return a block's argument for n B rows of `length` positions."""
        if isinstance(value, Tensor):
            return self.entry.widen(value)
        return self._rotation(length) if isinstance(value, tuple) else value

    def _rotation(self, length: int) -> tuple[Tensor, ...]:
        """Return cos and sin, with the identity for what was appended: it has no position."""
        more = length - self.rotation[0].shape[1]
        if more:
            after = [0, 0] * (self.rotation[0].ndim - 2) + [0, more]
            self.rotation = tuple(
                pad(table, after, value=value)
                for table, value in zip(self.rotation, (1.0, 0.0), strict=True)
            )
        return self.rotation
