"""The hooks by which a latent enters a network that was built without one, at its `Doors`.

No class is edited or copied. The state of the hooks lives during one forward pass: the latent's
`Entry`, the mask of unknown positions, and the rotations.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from di4c_plugin.networks.doors import Doors
from di4c_plugin.networks.latent import Entry, LatentInjector

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class LatentHooks:
    """The hooks of one network; `entry` lives from the start of a forward pass to its end."""

    def __init__(self, injector: LatentInjector, mask: int | None, num_blocks: int) -> None:
        self.injector, self.mask, self.num_blocks = injector, mask, num_blocks
        self.clear()

    def clear(self) -> None:
        """Keep nothing alive between passes."""
        self.entry: Any = None
        self.active = torch.empty(0)
        self.rotation: tuple[Tensor, ...] = ()

    def register(self, network: nn.Module, doors: Doors) -> None:
        """Hang every hook on its sub-module; a bound method or partial is copied with it."""
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        network.register_forward_hook(self.end)
        early, first = self.injector.blocks is None, 0
        doors.embedding.register_forward_hook(
            partial(self.embedded, early and doors.sequence is None)
        )
        if not early:
            first = self.num_blocks - (self.injector.blocks or 0)
            for index, block in list(enumerate(doors.blocks))[first:]:
                hook = partial(self.entered, index)
                block.register_forward_pre_hook(hook, with_kwargs=True)
        elif doors.sequence is not None:
            doors.sequence.register_forward_pre_hook(partial(self.entered, 0), with_kwargs=True)
        if doors.positions is not None:
            doors.positions.register_forward_hook(self.rotations)
        for layer, norm in list(enumerate(doors.norms))[2 * first :]:
            norm.register_forward_hook(partial(self.normalised, layer))
        doors.output.register_forward_hook(self.left)
        if doors.last is not None:
            doors.last.register_forward_pre_hook(self.widened, with_kwargs=True)

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take `latent` from the arguments; without it, one is drawn for each example.

        So a host's own samplers and metrics, which pass no latent, get a draw from the mixture at
        every call. With n latents for each row, all arguments are repeated, unless the latent
        enters late.
        """
        kwargs = dict(kwargs)
        latent = kwargs.pop("latent", None)
        x = args[0] if args else next(iter(kwargs.values()))
        if latent is None:
            latent = torch.rand(len(x), *self.injector.latent_shape, device=x.device)
        self.entry = Entry(self.injector, latent, len(x), self.num_blocks)
        x = x.flatten(1)
        every = torch.ones_like(x, dtype=torch.bool)
        self.active = every if self.mask is None else x == self.mask
        if self.injector.blocks is None:
            args, kwargs = self.widened(network, args, kwargs)
            self.active = self.entry.widen(self.active)
            self.entry.rows, self.entry.copies = len(latent), 1
        return args, kwargs

    def end(self, network: nn.Module, args: Any, output: Any) -> None:
        """See `clear`."""
        self.clear()

    def embedded(self, is_stream: bool, module: nn.Module, args: Any, e: Tensor) -> Tensor:
        """See `LatentInjector.on_embedding`; other tokens (a class) are unchanged."""
        d = self.active.shape[1]
        e = torch.cat([self.entry.at_embedding(e[:, :d], self.active), e[:, d:]], 1)
        entered: Tensor = self.entry.at_block(0, e, self.active) if is_stream else e
        return entered

    def rotations(
        self, module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Keep the rotations of the positions, and extend them to the appended tokens."""
        h, positions = args[0], self.active.shape[1]
        # The module caches its tables: they may be of another device, or of inference mode.
        self.rotation = tuple(table.to(h.device)[:, :positions].clone() for table in output)
        return self._rotation(h.shape[1])

    def entered(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """See `LatentInjector.on_sequence`; from the block it enters at there are n B rows."""
        h = self.entry.widen(self.entry.at_block(index, args[0], self.active))
        args, kwargs = self._moved(h.shape[1], args[1:], kwargs)
        return (h, *args), kwargs

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
        """Repeat tensors that still have B rows."""
        return self._moved(None, args, kwargs)

    def _moved(
        self, length: int | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments:
        """Return arguments for n B rows, with rotations for a stream of `length`, if given."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self.entry.widen(value)
            rotation = length is not None and self.rotation and isinstance(value, tuple)
            return self._rotation(length or 0) if rotation else value

        return tuple(map(moved, args)), {name: moved(value) for name, value in kwargs.items()}

    def _rotation(self, length: int) -> tuple[Tensor, ...]:
        """Return cos and sin, with the identity for appended tokens, which have no position."""
        more = length - self.rotation[0].shape[1]
        if more:
            padding = [0, 0] * (self.rotation[0].ndim - 2) + [0, more]
            self.rotation = tuple(
                pad(table, padding, value=value)
                for table, value in zip(self.rotation, (1.0, 0.0), strict=True)
            )
        return self.rotation
