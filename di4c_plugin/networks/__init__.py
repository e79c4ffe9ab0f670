"""Denoisers: the protocol, the networks of this package, latent conditioning."""

from di4c_plugin.networks.denoiser import Denoiser, NetworkDenoiser
from di4c_plugin.networks.dit import DiT, DiTConfig
from di4c_plugin.networks.transformer import Transformer, TransformerConfig

__all__ = [
    "Denoiser",
    "DiT",
    "DiTConfig",
    "NetworkDenoiser",
    "Transformer",
    "TransformerConfig",
]
