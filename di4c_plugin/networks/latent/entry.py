"""One forward pass of a network with a latent: which door is called where, on which rows.

With n latents for each of B examples, everything before the latent's entry is equal for all n, so
the network runs it on B rows; from there on there are n B, lambda-major (row n' B + b is lambda n'
of example b).
"""

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent.base import LatentInjector


class Entry:
    """An injector and its encoded latent, for one pass; `at_...` are called in this order.

    Args:
        injector: of the network.
        latent: lambda, shape (n B, *latent_shape).
        rows: B, examples at the network's input.
        num_blocks: blocks of the network.
        length: positions of the examples, where they may be fewer than the network's.

    Raises:
        UserError: if the latents are not n for each example.
    """

    def __init__(
        self,
        injector: LatentInjector,
        latent: Tensor,
        rows: int,
        num_blocks: int,
        length: int | None = None,
    ) -> None:
        if len(latent) % max(rows, 1):
            raise UserError(f"{len(latent)} latents for {rows} examples: each needs equally many")
        self.injector = injector
        self.code = (
            injector.encode(latent) if length is None else injector.encode_first(latent, length)
        )
        self.rows, self.copies = rows, len(latent) // max(rows, 1)
        self.late = injector.blocks is not None
        # The block before which the latent enters.
        self.first = num_blocks - (injector.blocks or num_blocks)
        self._codes: dict[torch.dtype, Tensor] = {}

    def widen(self, x: Tensor) -> Tensor:
        """Repeat a tensor of B rows to n B, lambda-major; return any other as it is."""
        if self.copies == 1 or not x.ndim or len(x) != self.rows:
            return x
        return x.repeat(self.copies, *[1] * (x.ndim - 1))

    def at_embedding(self, e: Tensor, active: Tensor) -> Tensor:
        """Let the latent into the embeddings (B, D, E), unless it enters late."""
        return e if self.late else self._on_embedding(e, active)

    def at_block(self, index: int, h: Tensor, active: Tensor) -> Tensor:
        """Let the latent into the residual stream (B, L, H) before the block it enters at."""
        if index != self.first:
            return h
        return self.injector.on_sequence(
            self._on_embedding(h, active) if self.late else h, self.code
        )

    def at_norm(self, h: Tensor, layer: int) -> Tensor:
        """Let the latent into a normalised input, of sub-layer `layer` of the whole network."""
        layer -= 2 * self.first
        return h if layer < 0 else self.injector.on_norm(h, self._code(h), layer)

    def at_output(self, h: Tensor) -> Tensor:
        """See `LatentInjector.on_output`."""
        return self.injector.on_output(h)

    def _on_embedding(self, e: Tensor, active: Tensor) -> Tensor:
        return self.injector.on_embedding(self.widen(e), self._code(e), self.widen(active))

    def _code(self, h: Tensor) -> Tensor:
        """Return the code in the dtype of h, converted once for each pass."""
        if h.dtype not in self._codes:
            self._codes[h.dtype] = self.code.to(h.dtype)
        return self._codes[h.dtype]
