"""How a latent enters a masked language model: at its word embeddings, on any class.

The network is called with ids, one more for each token that the latent appends; a hook replaces
their embeddings by the latent's. So everything after that (positions, types, masks, normalisation)
is the network's own, and its code is not edited.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.networks.doors import Doors
from di4c_plugin.networks.hooks import Arguments
from di4c_plugin.networks.latent import Entry, LatentInjector


class EmbeddingHooks:
    """The hooks of one network; `entry` lives from the start of a forward pass to its end.

    Args:
        injector: of the network.
        mask: id of the mask token.
        last: the greatest position; None: unlimited.
    """

    def __init__(self, injector: LatentInjector, mask: int, last: int | None) -> None:
        self.injector, self.mask, self.last = injector, mask, last
        self.clear()

    def clear(self) -> None:
        """Keep nothing alive between passes."""
        self.entry: Any = None
        self.active = torch.empty(0)

    def register(self, network: nn.Module, doors: Doors) -> None:
        """Hang every hook on its sub-module; a bound method or partial is copied with it."""
        network.register_forward_pre_hook(self.begin, with_kwargs=True)
        network.register_forward_hook(self.end, always_call=True)
        doors.embedding.register_forward_hook(self.embedded)
        for layer, norm in enumerate(doors.norms):
            norm.register_forward_hook(partial(self.normalised, layer))

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take `latent` from the arguments, or draw one; make room for the tokens it appends."""
        kwargs = dict(kwargs)
        latent, (x,) = kwargs.pop("latent", None), args
        if latent is None:
            latent = torch.rand(len(x), *self.injector.latent_shape, device=x.device)
        self.entry = Entry(self.injector, latent, len(x), 0, x.shape[1])
        x, kwargs = self.entry.widen(x), {k: self._widened(v) for k, v in kwargs.items()}
        self.entry.rows, self.entry.copies = len(latent), 1
        self.active = x == self.mask
        more = self._appended()
        if more:
            x = torch.cat([x, x.new_full((len(x), more), self.mask)], 1)
            kwargs = {k: self._longer(k, v, more) for k, v in kwargs.items()}
        return (x,), kwargs

    def end(self, network: nn.Module, args: Any, output: Any) -> None:
        """See `clear`."""
        self.clear()

    def embedded(self, module: nn.Module, args: Any, e: Tensor) -> Tensor:
        """See `LatentInjector.on_embedding` and `on_sequence`."""
        if self.entry is None:  # the table is looked up outside a pass
            return e
        kind = e.dtype  # a latent may have more precision
        e = self.entry.at_embedding(e[:, : self.active.shape[1]], self.active)
        entered: Tensor = self.entry.at_block(0, e, self.active)
        return entered.to(kind)

    def normalised(self, layer: int, module: nn.Module, args: Any, h: Tensor) -> Tensor:
        """See `LatentInjector.on_norm`."""
        normed: Tensor = h if self.entry is None else self.entry.at_norm(h, layer).to(h.dtype)
        return normed

    def _widened(self, value: Any) -> Any:
        return self.entry.widen(value) if isinstance(value, Tensor) else value

    def _appended(self) -> int:
        """Return the number of tokens that the latent appends."""
        code = self.entry.code
        nothing = code.new_empty(len(code), 0, code.shape[-1])
        return int(self.injector.on_sequence(nothing, code).shape[1])

    def _longer(self, name: str, value: Any, more: int) -> Any:
        """Return an argument for a sequence with `more` tokens after it, which all others see.

        In a mask (B, 1, D, D) the appended tokens see only themselves, so that nothing later leaks
        through them.
        """
        if not isinstance(value, Tensor):
            return value
        if name == "position_ids":
            appended = value[:, -1:] + torch.arange(1, more + 1, device=value.device)
            return torch.cat(
                [value, appended if self.last is None else appended.clamp(max=self.last)], 1
            )
        if value.ndim == 2:
            return torch.cat([value, torch.ones_like(value[:, :1]).expand(-1, more)], 1)
        rows, _, d, _ = value.shape
        visible, hidden = (
            (True, False) if value.dtype == torch.bool else (0.0, torch.finfo(value.dtype).min)
        )
        longer = value.new_full((rows, 1, d + more, d + more), hidden)
        longer[..., :d, :d] = value
        longer[..., d:] = visible
        return longer
