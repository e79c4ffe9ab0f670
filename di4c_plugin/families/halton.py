"""Halton-MaskGIT (Besnier et al. 2025): its DiT-like `Transformer` as teacher and student.

A sequence of D codes and registers; the class scales and shifts (adaLN) every normalised input.
A latent by `token` is appended behind the registers; by `adaln` it scales and shifts what is
normalised before the class does. It may enter late.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.errors import UserError
from di4c_plugin.families.files import read_checkpoint
from di4c_plugin.families.grid import GridDenoiser, GridNetworks, GridSizes, given
from di4c_plugin.families.grid_latent import Doors, let_in
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.sizing import check_heads, known_heads
from di4c_plugin.networks.attach import Head
from di4c_plugin.networks.latent import KnownSizes, new_injector

# By width and depth, the heads of the host's --vit-size tiny ... xlarge: no weight tells them.
HEADS = {(384, 6): 6, (512, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
TIED = ("tok_emb.weight", "head.weight")


@dataclass(frozen=True)
class HaltonSizes(GridSizes):
    """What makes a `Transformer`; `registers` are tokens that belong to no position."""

    registers: int = 1

    kind: ClassVar[str] = "halton_maskgit"


class HaltonDenoiser(GridDenoiser):
    """See `GridDenoiser`; a `HiddenDenoiser` too, with `carry_over` and K + 1 tokens."""

    def logits(self, x_t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `GridDenoiser.logits`."""
        options = {} if latent is None else {"latent": latent}
        return self.network(*self.arguments(x_t, cond), **options)

    @property
    def head(self) -> Head | None:
        """See `HiddenDenoiser.head`: one that gives logits as `forward` has them, or None.

        Losses by hidden states count revealed tokens as certain.
        """
        network: Any = self.network
        same = self.carry_over and self.process.num_tokens == self.codes + 1
        return network.head if same else None

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        assert self.head is not None, "hidden states go with carry_over, and the mask as a token"
        with self.head.skipping():
            return self.logits(x_t, cond, latent)


class HaltonNetworks(GridNetworks[HaltonSizes]):
    """See `GridNetworks`."""

    host, made, made_of = "halton_maskgit", HaltonDenoiser, HaltonSizes

    def read(self, path: str | Path) -> Weights:
        """See `ImageNetworks.read`; of the tied weights files of safetensors may have but one."""
        weights = read_checkpoint(path, self.host)
        tied = [weights.tensors[name] for name in TIED if name in weights.tensors]
        if len(tied) != 1:
            return weights
        tensors = weights.tensors | dict.fromkeys(TIED, tied[0])
        return replace(weights, tensors=tensors, fingerprint=fingerprint(tensors))

    def sizes(self, weights: Weights, **options: Any) -> HaltonSizes:
        """See `ImageNetworks.sizes`."""
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
            **given(dropout=options.get("dropout"), carry_over=options.get("carry_over")),
        )

    def build(self, sizes: HaltonSizes, root: str | Path | None = None) -> nn.Module:
        """See `ImageNetworks.build`."""
        check_heads(sizes.heads, sizes.hidden, divide=False)
        kind = host_module(self.host, "Network.transformer", root).Transformer
        network = kind(
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
        network.head = Head(network.head)  # the same weights; in fp32 even under autocast
        built: nn.Module = network
        return built

    def let_latent_in(
        self, network: nn.Module, latent: Mapping[str, Any], sizes: HaltonSizes
    ) -> None:
        """See `ImageNetworks.let_latent_in`."""
        doors = doors_of(network)
        known = KnownSizes(
            hidden_size=sizes.hidden,
            embedding_size=sizes.hidden,
            embedding_std=0.02,
            positions=sizes.side**2,
            length=sizes.side**2 + sizes.registers,
            num_norms=len(doors.norms),
        )
        let_in(network, new_injector(known, latent), doors, sizes.codes)


def doors_of(network: Any) -> Doors:
    """Return where a latent enters a `Transformer`."""
    blocks = tuple(network.transformer.layers)
    norms = [norm for block in blocks for norm in (block.ln1, block.ln2)]
    return Doors(
        embedding=network.tok_emb,
        sequence=network.transformer,
        output=network.transformer,
        norms=(*norms, network.last_norm.norm_final),
        blocks=blocks,
        last=network.last_norm,
    )
