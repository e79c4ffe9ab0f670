"""MaskGIT-pytorch v1 (Besnier & Chen 2023): its `MaskTransformer` as teacher and student.

A sequence of D codes and one class token; the last layer is the table of embeddings, with a bias of
each position's own, so that there is no head in the sense of `HiddenDenoiser` (nor need: there are
about a thousand codes). A latent by `token` is the official Di4C's layout: behind the class token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.files import read_checkpoint
from di4c_plugin.families.grid import GridDenoiser, GridNetworks, GridSizes, given
from di4c_plugin.families.grid_latent import Doors, let_in
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.sizing import check_heads, known_heads
from di4c_plugin.networks.latent import KnownSizes, new_injector

# By width and depth, the heads of the host's --vit-size base, big, huge: no weight tells them.
HEADS = {(768, 24): 16, (1024, 32): 16, (1024, 48): 16}
CLASSES = 1000  # the host makes no other
# What ReDi (Yoo et al. 2025) adds: weights of its loss, and of positions that start at random.
REDI = ("reweight", "rand_token")


@dataclass(frozen=True)
class MaskGITSizes(GridSizes):
    """What makes a `MaskTransformer`."""

    dropout: float = 0.1

    kind: ClassVar[str] = "maskgit"


class Tap:
    """A hook that takes the hidden states, and leaves no rows to the host's own last product."""

    def __init__(self) -> None:
        self.on = False
        self.h = torch.empty(0)

    def __call__(self, module: nn.Module, args: Any, h: Tensor) -> Tensor | None:
        """Take h (n B, L, H) while on."""
        if not self.on:
            return None
        self.h = h
        return h[:0]

    def take(self) -> Tensor:
        """Return what was taken, and let it go."""
        h, self.h = self.h, torch.empty(0)
        return h


class MaskGITDenoiser(GridDenoiser):
    """See `GridDenoiser`; the last product in fp32 even under autocast."""

    def logits(self, x_t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `GridDenoiser.logits`: h W^T + b_d, over codes and the mask only."""
        h = self._hidden(x_t, cond, latent)
        network: Any = self.network
        weight, d, k = network.tok_emb.weight, self.side**2, self.codes + 1
        with torch.autocast(h.device.type, enabled=False):
            return linear(h[:, :d].to(weight.dtype), weight[:k]) + network.bias[:d, :k]

    def _hidden(self, x_t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        network: Any = self.network
        network.di4c_tap.on = True
        try:
            network(*self.arguments(x_t, cond), **({} if latent is None else {"latent": latent}))
        finally:
            network.di4c_tap.on = False
        return network.di4c_tap.take()


class MaskGITNetworks(GridNetworks[MaskGITSizes]):
    """See `GridNetworks`."""

    host, made, made_of = "maskgit", MaskGITDenoiser, MaskGITSizes

    def read(self, path: str | Path) -> Weights:
        """See `ImageNetworks.read`; parts that only ReDi's training and start use are left out."""
        weights = read_checkpoint(path, self.host)
        kept = {k: v for k, v in weights.tensors.items() if not k.startswith(REDI)}
        if len(kept) == len(weights.tensors):
            return weights
        announce_once(
            f"{path} is of ReDi: its {' and '.join(REDI)} are left out, all starts masked"
        )
        return replace(weights, tensors=kept, fingerprint=fingerprint(kept))

    def sizes(self, weights: Weights, **options: Any) -> MaskGITSizes:
        """See `ImageNetworks.sizes`."""
        tensors, classes = weights.tensors, options.get("classes") or CLASSES
        rows, hidden = tensors["tok_emb.weight"].shape
        if rows < classes + 3:
            raise UserError(
                f"{weights.origin}: {rows} embeddings are too few for {classes} classes: "
                "say host.classes="
            )
        depth = sum(name.endswith(".1.norm.weight") for name in tensors)
        return MaskGITSizes(
            hidden=hidden,
            codes=rows - 2 - classes,  # and the mask, and "no class"
            side=isqrt(tensors["pos_emb"].shape[1] - 1),
            depth=depth,
            heads=options.get("heads") or known_heads(HEADS, hidden, depth, weights.origin),
            mlp=len(tensors["transformer.layers.0.1.fn.net.0.weight"]),
            classes=classes,
            **given(dropout=options.get("dropout"), carry_over=options.get("carry_over")),
        )

    def build(self, sizes: MaskGITSizes, root: str | Path | None = None) -> nn.Module:
        """See `ImageNetworks.build`."""
        check_heads(sizes.heads, sizes.hidden)
        kind = host_module(self.host, "Network.transformer", root).MaskTransformer
        network: nn.Module = kind(
            hidden_dim=sizes.hidden,
            codebook_size=sizes.codes,
            f_factor=sizes.side,  # so it is called there
            depth=sizes.depth,
            heads=sizes.heads,
            mlp_dim=sizes.mlp,
            dropout=sizes.dropout,
            nclass=sizes.classes,
        )
        return network

    def let_latent_in(
        self, network: nn.Module, latent: Mapping[str, Any], sizes: MaskGITSizes
    ) -> None:
        """See `ImageNetworks.let_latent_in`: any injector, not late (no block is called)."""
        doors = doors_of(network)
        known = KnownSizes(
            hidden_size=sizes.hidden,
            embedding_size=sizes.hidden,
            embedding_std=1.0,  # of nn.Embedding
            positions=sizes.side**2,
            length=sizes.side**2 + 1,
            num_norms=len(doors.norms),
        )
        let_in(network, new_injector(known, latent), doors, sizes.codes)

    def wrap(self, network: nn.Module, sizes: MaskGITSizes, process: Process) -> GridDenoiser:
        """See `ImageNetworks.wrap`."""
        tap: Any = Tap()
        network.di4c_tap = tap
        doors_of(network).output.register_forward_hook(tap)  # after a latent has left
        drop_attention_maps(network)
        return super().wrap(network, sizes, process)


def doors_of(network: Any) -> Doors:
    """Return where a latent enters a `MaskTransformer`."""
    norms = [part.norm for layer in network.transformer.layers for part in layer]
    return Doors(
        embedding=network.tok_emb,
        sequence=network.first_layer,
        output=network.last_layer,
        norms=(*norms, network.last_layer[0]),
    )


def drop_attention_maps(network: nn.Module) -> None:
    """Have no maps (B, L, L) of attention computed, which the host's transformer only collects."""
    for part in network.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.register_forward_pre_hook(_without_map, with_kwargs=True)


def _without_map(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {"need_weights": False} | kwargs
