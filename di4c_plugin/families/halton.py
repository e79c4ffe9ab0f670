"""Halton-MaskGIT (Besnier et al. 2025): its DiT-like `Transformer` as teacher and student.

A sequence of D codes and registers; the class scales and shifts (adaLN) every normalised input.
The latent `token` is appended after the registers; `adaln` scales and shifts each normalised input
before the class does. A latent may enter late.
"""

from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, ClassVar

from torch import nn

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridNetworks, GridSizes, not_none
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.sizing import check_heads, known_heads
from di4c_plugin.networks.attach import exact_head
from di4c_plugin.networks.doors import Names

# Heads by (width, depth), of the host's --vit-size tiny ... xlarge; weights do not determine them.
HEADS = {(384, 6): 6, (512, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
TIED = ("tok_emb.weight", "head.weight")


@dataclass(frozen=True)
class HaltonSizes(GridSizes):
    """The sizes of a `Transformer`; `registers` are tokens that belong to no position."""

    registers: int = 1

    kind: ClassVar[str] = "halton_maskgit"
    embedding_std = 0.02

    @property
    def length(self) -> int:
        """L."""
        return self.positions + self.registers


class HaltonNetworks(GridNetworks[HaltonSizes]):
    """See `GridNetworks`."""

    name, made_of = "halton_maskgit", HaltonSizes
    title, mark = "Halton-MaskGIT", "cls_emb.weight"
    names: ClassVar[Names] = {
        "embedding": "tok_emb",
        "sequence": "transformer",
        "output": "transformer",
        "norms": (
            "transformer.layers.*.ln1",
            "transformer.layers.*.ln2",
            "last_norm.norm_final",
        ),
        "blocks": "transformer.layers.*",
        "last": "last_norm",
        "head": "head",
    }

    def weights_in(self, content: Content, *, ema: bool = True) -> Weights:
        """See `Family.weights_in`; safetensors files may have only one of the tied weights."""
        weights = super().weights_in(content, ema=ema)
        tied = [weights.tensors[name] for name in TIED if name in weights.tensors]
        if len(tied) != 1:
            return weights
        tensors = weights.tensors | dict.fromkeys(TIED, tied[0])
        return replace(weights, tensors=tensors, fingerprint=fingerprint(tensors))

    def sizes(self, weights: Weights, **options: Any) -> HaltonSizes:
        """See `Family.sizes`."""
        tensors, origin = weights.tensors, weights.origin
        if "in_proj.weight" in tensors:  # its forward pass is an error of einops
            raise UserError(f"{origin} has proj=2, with which Halton-MaskGIT itself does not run")
        rows, hidden = tensors["tok_emb.weight"].shape
        depth = sum(name.endswith(".ln1.weight") for name in tensors)
        return HaltonSizes(
            hidden=hidden,
            codes=rows - 1,
            side=isqrt(len(tensors["pos_emb.weight"])),
            depth=depth,
            heads=options.get("heads") or known_heads(HEADS, hidden, depth, origin),
            mlp=len(tensors["transformer.layers.0.ff.w1.weight"]),
            classes=len(tensors["cls_emb.weight"]) - 1,
            registers=len(tensors.get("reg_tokens.weight", ())),
            **not_none(dropout=options.get("dropout"), carry_over=options.get("carry_over")),
        )

    def build(self, sizes: HaltonSizes, process: Process | None = None) -> nn.Module:
        """See `Family.build`."""
        check_heads(sizes.heads, sizes.hidden, divide=False)
        kind = host_module(self.name, "Network.transformer", self.root).Transformer
        network: nn.Module = kind(
            input_size=sizes.side,
            hidden_dim=sizes.hidden,
            codebook_size=sizes.codes,
            depth=sizes.depth,
            heads=sizes.heads,
            mlp_dim=sizes.mlp * 3 // 2,  # the host takes two thirds, up to a multiple of 256
            dropout=sizes.dropout,
            nclass=sizes.classes,
            register=sizes.registers,
            proj=1,
        )
        exact_head(network, "head")
        return network
