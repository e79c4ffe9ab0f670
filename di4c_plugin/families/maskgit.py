"""MaskGIT-pytorch v1 (Besnier & Chen 2023): its `MaskTransformer` as teacher and student.

A sequence of D codes and one class token; the last layer is the table of embeddings, with a bias of
each position's own, so that there is no head in the sense of `HiddenDenoiser` (nor need: there are
about a thousand codes). A latent by `token` is the official Di4C's layout: behind the class token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridDenoiser, GridNetworks, GridSizes, given
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.sizing import check_heads, known_heads
from di4c_plugin.networks.doors import Names

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
    embedding_std = 1.0  # of nn.Embedding


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

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `GridDenoiser.logits`: h W^T + b_d, over codes and the mask only."""
        network: Any = self.network
        network.di4c_tap.on = True
        try:
            super().logits(x_t, t, cond, latent)
        finally:
            network.di4c_tap.on = False
        h = network.di4c_tap.take()
        weight, d, k = network.tok_emb.weight, self.side**2, self.codes + 1
        with torch.autocast(h.device.type, enabled=False):
            return linear(h[:, :d].to(weight.dtype), weight[:k]) + network.bias[:d, :k]


class MaskGITNetworks(GridNetworks[MaskGITSizes]):
    """See `GridNetworks`. A latent cannot enter late: no block is called."""

    name, made, made_of = "maskgit", MaskGITDenoiser, MaskGITSizes
    title, mark = "MaskGIT-pytorch v1", "first_layer.0.weight"
    said: ClassVar[Mapping[str, Any]] = {
        **GridNetworks.said,
        "classes": int | None,
        "codes": int | None,
    }
    names: ClassVar[Names] = {
        "embedding": "tok_emb",
        "sequence": "first_layer",
        "output": "last_layer",
        "norms": ("transformer.layers.*.*.norm", "last_layer.0"),
    }

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`; parts that only ReDi's training and start use are left out."""
        weights = super().weights_in(content, ema=ema)
        kept = {k: v for k, v in weights.tensors.items() if not k.startswith(REDI)}
        if len(kept) == len(weights.tensors):
            return weights
        parts = " and ".join(REDI)
        announce_once(f"{weights.origin} is of ReDi: its {parts} are left out, all starts masked")
        return replace(weights, tensors=kept, fingerprint=fingerprint(kept))

    def sizes(self, weights: Weights, **said: Any) -> MaskGITSizes:
        """See `Family.sizes` and `count`."""
        tensors = weights.tensors
        rows, hidden = tensors["tok_emb.weight"].shape
        codes, classes = count(rows, said.get("codes"), said.get("classes"), weights.origin)
        depth = sum(name.endswith(".1.norm.weight") for name in tensors)
        return MaskGITSizes(
            hidden=hidden,
            codes=codes,
            side=isqrt(tensors["pos_emb"].shape[1] - 1),
            depth=depth,
            heads=said.get("heads") or known_heads(HEADS, hidden, depth, weights.origin),
            mlp=len(tensors["transformer.layers.0.1.fn.net.0.weight"]),
            classes=classes,
            **given(dropout=said.get("dropout"), carry_over=said.get("carry_over")),
        )

    def build(self, sizes: MaskGITSizes, process: Process | None = None) -> nn.Module:
        """See `Family.build`."""
        check_heads(sizes.heads, sizes.hidden)
        kind = host_module(self.name, "Network.transformer", self.root).MaskTransformer
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

    def wrap(self, network: nn.Module, sizes: MaskGITSizes, process: Process) -> GridDenoiser:
        """See `Family.wrap`."""
        tap: Any = Tap()
        network.di4c_tap = tap
        self.doors(network).output.register_forward_hook(tap)  # after a latent has left
        drop_attention_maps(network)
        return super().wrap(network, sizes, process)


def count(rows: int, codes: int | None, classes: int | None, origin: str) -> tuple[int, int]:
    """Return the numbers of codes and classes of a table with `rows` embeddings.

    Weights tell their sum alone, beside the mask and "no class". Who says codes need not say
    classes; who says neither gets the 1000 classes that the host makes, and codes that nobody said
    must be as many as a code book has, a power of two.

    Raises:
        UserError: for numbers that do not go together, or must be said.
    """
    if codes is None:
        classes = classes or CLASSES
        codes = rows - 2 - classes
        if codes < 1 or codes & (codes - 1):
            raise UserError(
                f"{origin} has {rows} embeddings: with {classes} classes that makes {codes} codes, "
                "and no code book has so many: say host.classes= (and host.codes=)"
            )
    classes = rows - 2 - codes if classes is None else classes
    if codes < 1 or classes < 1 or codes + classes + 2 != rows:
        raise UserError(
            f"{origin} has {rows} embeddings: these are no {codes} codes and {classes} classes, "
            "the mask and no class"
        )
    return codes, classes


def drop_attention_maps(network: nn.Module) -> None:
    """Have no maps (B, L, L) of attention computed, which the host's transformer only collects."""
    for part in network.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.register_forward_pre_hook(_without_map, with_kwargs=True)


def _without_map(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {"need_weights": False} | kwargs
