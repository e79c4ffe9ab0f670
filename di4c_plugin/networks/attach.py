r"""Puts a latent into a network that was built without one, by hooks on its sub-modules.

For the DiT of MDLM, SDTT and Duo, and our own of the same layout: `vocab_embed` gives embeddings
(B, D, H), `rotary_emb` the rotations of positions, each of `blocks` normalises by `norm1` and
`norm2`, `output_layer` by `norm_final` before its `linear` head. No class is edited or copied, and
the weights of a student have the names of the released ones (`latent_projection.0.weight` beside
`vocab_embed.embedding`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.hooks import LatentHooks
from di4c_plugin.networks.latent import KnownSizes, LatentInjector

DOORS = ("vocab_embed", "rotary_emb", "blocks", "output_layer")


class Head(nn.Linear):
    """The last linear layer in fp32 even under autocast, with the weights of the one it replaces.

    bf16 logits cost 0.3 to 0.5 nat on the joint log-probability of 512 tokens.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.skipped = False

    def forward(self, h: Tensor) -> Tensor:
        """Return logits (B, D, S), or the hidden states h (B, D, H) themselves while skipped."""
        if self.skipped:
            return h
        with torch.autocast(h.device.type, enabled=False):
            return super().forward(h.to(self.weight.dtype))

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Have the network return its hidden states instead of logits."""
        self.skipped = True
        try:
            yield
        finally:
            self.skipped = False


def backbone_sizes(network: nn.Module, positions: int) -> KnownSizes:
    """Read what an injector must know off a network.

    Raises:
        UserError: if the network has not the layout this module is for.
    """
    missing = [name for name in DOORS if not hasattr(network, name)]
    if missing:
        kind = type(network).__name__
        raise UserError(f"a latent cannot enter {kind}: it has no {', '.join(missing)}")
    parts: Any = network
    hidden = parts.vocab_embed.embedding.shape[1]
    std = (3 * hidden) ** -0.5  # uniform up to 1/sqrt(H)
    return KnownSizes(hidden, hidden, std, positions, positions, 2 * len(parts.blocks) + 1)


def attach_latent(network: nn.Module, injector: LatentInjector, *, mask: int | None = None) -> None:
    """Let a latent into `network`, in place; its forward pass then takes `latent=`.

    With n latents for each row of the other arguments (lambda-major), the logits have as many rows
    as the latents, and only the blocks that a latent enters run on so many.

    Args:
        network: laid out as the module says.
        injector: made for `backbone_sizes(network, ...)`; its parts become the network's own.
        mask: the token that means "unknown", or None where every position is always unknown.

    Raises:
        UserError: if the network has another layout, or has a latent already, or the injector has
            weights outside its sub-modules.
    """
    backbone_sizes(network, 0)
    own_injector(network, injector)
    LatentHooks(injector, mask).register(network)


def own_injector(network: nn.Module, injector: LatentInjector) -> None:
    """Make the parts of an injector the network's own, and have `latent_shape` know it.

    Raises:
        UserError: if the network has a latent already, or the injector has weights outside its
            sub-modules.
    """
    if latent_shape(network) is not None:
        raise UserError("this network has a latent already")
    if any(True for _ in injector.parameters(recurse=False)):
        raise UserError(f"{type(injector).__name__} must hold its weights in sub-modules")
    for name, part in injector.named_children():
        network.add_module(name, part)
    # In a tuple the injector is no second owner of its parts.
    network.di4c_injector = (injector,)  # type: ignore[assignment]


def latent_shape(network: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of one lambda of a network; None without a latent."""
    injectors = getattr(network, "di4c_injector", None)
    return None if injectors is None else injectors[0].latent_shape


def exact_head(network: nn.Module) -> Head:
    """Replace the last linear layer of `network` by an fp32 `Head`, once, and return it."""
    last: Any = network.output_layer
    if not isinstance(last.linear, Head):
        last.linear = Head(last.linear)
    return last.linear
