"""Latents of students: an extra token, adaLN, or noise on embeddings or the residual stream."""

from di4c_plugin.networks.latent.adaln import AdaLNLatent
from di4c_plugin.networks.latent.base import (
    KnownSizes,
    LatentInjector,
    Sizes,
    draw_latents,
    sinusoid,
)
from di4c_plugin.networks.latent.entry import Entry
from di4c_plugin.networks.latent.making import find_latent, new_injector, same_options
from di4c_plugin.networks.latent.mask_noise import MaskNoiseLatent
from di4c_plugin.networks.latent.pyramid_noise import PyramidNoiseLatent
from di4c_plugin.networks.latent.stream_noise import StreamNoiseLatent
from di4c_plugin.networks.latent.token import TokenLatent

LATENTS: dict[str, type[LatentInjector]] = {
    "token": TokenLatent,
    "adaln": AdaLNLatent,
    "mask_noise": MaskNoiseLatent,
    "stream_noise": StreamNoiseLatent,
    "pyramid_noise": PyramidNoiseLatent,
}

__all__ = [
    "LATENTS",
    "AdaLNLatent",
    "Entry",
    "KnownSizes",
    "LatentInjector",
    "MaskNoiseLatent",
    "PyramidNoiseLatent",
    "Sizes",
    "StreamNoiseLatent",
    "TokenLatent",
    "draw_latents",
    "find_latent",
    "new_injector",
    "same_options",
    "sinusoid",
]
