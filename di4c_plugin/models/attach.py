r"""Puts a latent into a network that was built without one, by hooks on its sub-modules.

For the DiT of MDLM, SDTT and Duo, and our own of the same layout: `vocab_embed` gives embeddings
(B, D, H), `rotary_emb` the rotations of positions, each of `blocks` normalises by `norm1` and
`norm2`, `output_layer` by `norm_final` before its `linear` head. No class is edited or copied, and
the weights of a student have the names of the released ones (`latent_projection.0.weight` beside
`vocab_embed.embedding`). Tests: tests/models/test_attach.py.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.models.latent import LatentInjector

DOORS = ("vocab_embed", "rotary_emb", "blocks", "output_layer")


@dataclass(frozen=True)
class BackboneSizes:
    """See `di4c_plugin.models.latent.Sizes`."""

    hidden_size: int
    embedding_size: int
    embedding_std: float
    positions: int
    num_norms: int


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


class LatentHooks:
    """The hooks of one network; `code` lives from the start of a forward pass to its end."""

    def __init__(self, injector: LatentInjector, mask: int | None) -> None:
        self.injector, self.mask = injector, mask
        self.code = torch.empty(0)

    def begin(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Take `latent` from the arguments; missing, it is drawn for each example.

        So the host's own samplers and metrics, which know of no latent, see a draw from the mixture
        at every call.
        """
        kwargs = dict(kwargs)
        latent = kwargs.pop("latent", None)
        if latent is None:
            x = args[0] if args else next(iter(kwargs.values()))
            latent = torch.rand(len(x), *self.injector.latent_shape, device=x.device)
        self.code = self.injector.encode(latent)
        return args, kwargs

    def end(self, network: nn.Module, args: Any, output: Tensor) -> None:
        """Keep nothing alive between passes."""
        self.code = torch.empty(0)

    def embedded(self, module: nn.Module, args: tuple[Tensor, ...], e: Tensor) -> Tensor:
        """See `LatentInjector.on_embedding` and `on_sequence`."""
        x = args[0]
        active = torch.ones_like(x, dtype=torch.bool) if self.mask is None else x == self.mask
        e = self.injector.on_embedding(e, self.code.to(e.dtype), active)
        return self.injector.on_sequence(e, self.code)

    def rotations(
        self, module: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Give what `on_sequence` appended the identity rotation: it has no position."""
        h = args[0]
        positions = self.injector.on_output(h).shape[1]
        # The module caches its tables: those of another device, or ours, must not be written to.
        cos, sin = (table.to(h.device).clone() for table in output)
        cos[:, positions:], sin[:, positions:] = 1, 0
        return cos, sin

    def normalised(self, layer: int, module: nn.Module, args: Any, h: Tensor) -> Tensor:
        """See `LatentInjector.on_norm`."""
        return self.injector.on_norm(h, self.code.to(h.dtype), layer)

    def finished(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """See `LatentInjector.on_output`."""
        h, *others = args
        return (self.injector.on_output(h), *others), kwargs


def backbone_sizes(network: nn.Module, positions: int) -> BackboneSizes:
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
    return BackboneSizes(hidden, hidden, std, positions, 2 * len(parts.blocks) + 1)


def attach_latent(network: nn.Module, injector: LatentInjector, *, mask: int | None = None) -> None:
    """Let a latent into `network`, in place; its forward pass then takes `latent=`.

    Args:
        network: laid out as the module says.
        injector: made for `backbone_sizes(network, ...)`; its parts become the network's own.
        mask: the token that means "unknown", or None where every position is always unknown.

    Raises:
        UserError: if the network has another layout, or has a latent already, or the injector has
            weights outside its sub-modules.
    """
    if latent_shape(network) is not None:
        raise UserError("this network has a latent already")
    backbone_sizes(network, 0)
    if any(True for _ in injector.parameters(recurse=False)):
        raise UserError(f"{type(injector).__name__} must hold its weights in sub-modules")
    for name, part in injector.named_children():
        network.add_module(name, part)
    hooks = LatentHooks(injector, mask)
    # In a tuple the injector is no second owner of its parts.
    network.di4c_injector = (injector,)  # type: ignore[assignment]
    network.register_forward_pre_hook(hooks.begin, with_kwargs=True)
    network.register_forward_hook(hooks.end)
    parts: Any = network
    parts.vocab_embed.register_forward_hook(hooks.embedded)
    parts.rotary_emb.register_forward_hook(hooks.rotations)
    norms = [norm for block in parts.blocks for norm in (block.norm1, block.norm2)]
    for layer, norm in enumerate([*norms, parts.output_layer.norm_final]):
        # Unlike a closure, a partial is copied with the network.
        norm.register_forward_hook(partial(hooks.normalised, layer))
    parts.output_layer.register_forward_pre_hook(hooks.finished, with_kwargs=True)


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
