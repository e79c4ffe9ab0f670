"""A teacher and a student of our DiT, as large as a case says, with random weights."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from di4c_plugin.bench.cases import NetworkCase
from di4c_plugin.checkpoints.model import Model, new_model, student_of
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.networks import DiTConfig


def make_models(case: NetworkCase) -> tuple[Model, Model]:
    """Return teacher and student, on the device.

    Raises:
        UserError: for sizes, a latent or blocks that do not fit.
    """
    if case.dtype == "float64":
        raise UserError("networks are measured in float32 or, by autocast, bfloat16")
    torch.manual_seed(case.seed)
    config = DiTConfig(
        case.vocab,
        case.positions,
        hidden_size=case.hidden,
        n_blocks=case.layers,
        n_heads=case.heads,
    )
    with torch.device(case.device):
        teacher = new_model(config, Absorbing(case.vocab, mask=case.vocab - 1))
        randomise(teacher.denoiser)
        return teacher, student_of(teacher, latent_options(case))


def latent_options(case: NetworkCase) -> dict[str, Any]:
    """Return the `latent` of a case as configs have it."""
    return {"name": case.latent} | ({} if case.blocks is None else {"blocks": case.blocks})


def randomise(network: nn.Module) -> None:
    """Fill what a new DiT has at zero, head and modulations: zeros are no typical numbers."""
    for parameter in network.parameters():
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def autocast(case: NetworkCase) -> AbstractContextManager[None]:
    """Return the context of the forward passes."""
    enabled = case.dtype == "bfloat16"
    return torch.autocast(torch.device(case.device).type, torch.bfloat16, enabled=enabled)
