"""Latent conditioning of students: by extra token, by adaLN, by noise on the mask embedding."""

from di4c_plugin.models.latent.adaln import AdaLNLatent
from di4c_plugin.models.latent.base import (
    KnownSizes,
    LatentInjector,
    Sizes,
    draw_latents,
    sinusoid,
)
from di4c_plugin.models.latent.entry import Entry
from di4c_plugin.models.latent.making import FindLatent, new_injector, same_options
from di4c_plugin.models.latent.mask_noise import MaskNoiseLatent
from di4c_plugin.models.latent.token import TokenLatent

LATENTS: dict[str, type[LatentInjector]] = {
    "token": TokenLatent,
    "adaln": AdaLNLatent,
    "mask_noise": MaskNoiseLatent,
}

__all__ = [
    "LATENTS",
    "AdaLNLatent",
    "Entry",
    "FindLatent",
    "KnownSizes",
    "LatentInjector",
    "MaskNoiseLatent",
    "Sizes",
    "TokenLatent",
    "draw_latents",
    "new_injector",
    "same_options",
    "sinusoid",
]
