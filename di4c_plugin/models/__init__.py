"""Denoisers: the protocol, the networks, latent conditioning, files."""

from di4c_plugin.models.checkpoint import Model, load_model, new_model, save_model, student_of
from di4c_plugin.models.denoiser import Denoiser, LatentDenoiser, NetworkDenoiser
from di4c_plugin.models.dit import DiT, DiTConfig
from di4c_plugin.models.transformer import Transformer, TransformerConfig

__all__ = [
    "Denoiser",
    "DiT",
    "DiTConfig",
    "LatentDenoiser",
    "Model",
    "NetworkDenoiser",
    "Transformer",
    "TransformerConfig",
    "load_model",
    "new_model",
    "save_model",
    "student_of",
]
