"""MaskGIT-pytorch v1 (Besnier & Chen 2023): its `MaskTransformer` as teacher and student.

A sequence of D codes and one class token. The last layer is the table of embeddings with a bias for
each position, so there is no head in the sense of `HiddenDenoiser` (and with about a thousand codes
no need). The latent `token` has the official Di4C's layout: after the class token.
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
from di4c_plugin.families.grid import GridDenoiser, GridNetworks, GridSizes, not_none
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.sizing import check_heads, known_heads
from di4c_plugin.networks.doors import Names

# Heads by (width, depth), of the host's --vit-size base, big, huge; weights do not determine them.
HEADS = {(768, 24): 16, (1024, 32): 16, (1024, 48): 16}
CLASSES = 1000  # the host's only number
# Added by ReDi (Yoo et al. 2025): weights of its loss, and of positions that start at random.
REDI = ("reweight", "rand_token")


@dataclass(frozen=True)
class MaskGITSizes(GridSizes):
    """The sizes of a `MaskTransformer`."""

    dropout: float = 0.1

    kind: ClassVar[str] = "maskgit"
    embedding_std = 1.0  # of nn.Embedding


class Tap:
    """A hook that captures the hidden states, and passes no rows to the host's last product."""

    def __init__(self) -> None:
        self.on = False
        self.h = torch.empty(0)

    def __call__(self, module: nn.Module, args: Any, h: Tensor) -> Tensor | None:
        """Capture h (n B, L, H) while on."""
        if not self.on:
            return None
        self.h = h
        return h[:0]

    def take(self) -> Tensor:
        """Return the captured states, and release them."""
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

    name, denoiser_class, made_of = "maskgit", MaskGITDenoiser, MaskGITSizes
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
        """See `Family.weights_in`; weights that only ReDi's training and start use are dropped."""
        weights = super().weights_in(content, ema=ema)
        tensors = {k: v for k, v in weights.tensors.items() if not k.startswith(REDI)}
        if len(tensors) == len(weights.tensors):
            return weights
        parts = " and ".join(REDI)
        announce_once(f"{weights.origin} is of ReDi: its {parts} are left out, all starts masked")
        return replace(weights, tensors=tensors, fingerprint=fingerprint(tensors))

    def sizes(self, weights: Weights, **options: Any) -> MaskGITSizes:
        """See `Family.sizes` and `count`."""
        tensors = weights.tensors
        rows, hidden = tensors["tok_emb.weight"].shape
        codes, classes = count(rows, options.get("codes"), options.get("classes"), weights.origin)
        depth = sum(name.endswith(".1.norm.weight") for name in tensors)
        return MaskGITSizes(
            hidden=hidden,
            codes=codes,
            side=isqrt(tensors["pos_emb"].shape[1] - 1),
            depth=depth,
            heads=options.get("heads") or known_heads(HEADS, hidden, depth, weights.origin),
            mlp=len(tensors["transformer.layers.0.1.fn.net.0.weight"]),
            classes=classes,
            **not_none(dropout=options.get("dropout"), carry_over=options.get("carry_over")),
        )

    def build(self, sizes: MaskGITSizes, process: Process | None = None) -> nn.Module:
        """See `Family.build`."""
        check_heads(sizes.heads, sizes.hidden)
        kind = host_module(self.name, "Network.transformer", self.root).MaskTransformer
        network: nn.Module = kind(
            hidden_dim=sizes.hidden,
            codebook_size=sizes.codes,
            f_factor=sizes.side,  # the host's name for it
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

    Weights determine only their sum (with the mask and "no class"). From the codes the classes
    follow; without both, there are 1000 classes, as in the host. Inferred codes must be a power of
    two, as in code books.

    Raises:
        UserError: for numbers that do not add up, or cannot be inferred.
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
    """Skip the attention maps (B, L, L), which the host's transformer only collects."""
    for part in network.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.register_forward_pre_hook(_without_map, with_kwargs=True)


def _without_map(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {"need_weights": False} | kwargs
