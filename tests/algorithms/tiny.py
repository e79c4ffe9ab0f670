"""Tiny networks with random weights, none of them zero, for tests of whole updates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Batch, Networks
from di4c_plugin.algorithms.di4c_terms import Trio
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.families import new_model
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.networks.attach import Head
from di4c_plugin.networks.denoiser import NetworkDenoiser
from di4c_plugin.networks.predictions import Hidden

TOKENS, LENGTH = 7, 6
MASK = TOKENS - 1
DIT = DiTConfig(TOKENS, LENGTH, hidden_size=8, cond_dim=4, n_blocks=2, n_heads=2)
TRANSFORMER = TransformerConfig(
    num_tokens=TOKENS,
    num_states=TOKENS,
    grid=(1, LENGTH),
    hidden_size=8,
    embedding_size=8,
    num_blocks=2,
    num_heads=2,
    mask=MASK,
)


def masked() -> Process:
    """Masked diffusion whose mask is the last of the tokens."""
    return Absorbing(TOKENS, mask=MASK)


def denoiser(
    process: Process,
    latent: dict[str, Any] | None = None,
    *,
    config: DiTConfig | TransformerConfig = DIT,
    seed: int = 0,
) -> NetworkDenoiser:
    """A network in float64, in training mode; new layers that start at zero do not here."""
    made = new_model(config, process, latent).denoiser.double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=random, dtype=torch.float64) * 0.6)
    return made


def networks(
    process: Process,
    latent: dict[str, Any],
    *,
    teacher: dict[str, Any] | None = None,
    config: DiTConfig | TransformerConfig = DIT,
    target: bool = False,
) -> Networks:
    """Student and teacher, and a target of its own if asked for; the latter two frozen."""
    student = denoiser(process, latent, config=config, seed=1)
    frozen = denoiser(process, teacher, config=config, seed=2).requires_grad_(False)
    found = {"student": student, "teacher": frozen}
    if target:
        found["student_average"] = denoiser(process, latent, config=config, seed=3)
        found["student_average"].requires_grad_(False)
    return found


def trio(networks: Networks) -> Trio:
    """The same as the terms of Di4C take them."""
    student = networks["student"]
    return Trio(student, networks["teacher"], networks.get("student_average", student))


def batch(size: int, seed: int = 0) -> Batch:
    """Clean tokens, never the mask."""
    random = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(TOKENS - 1, (size, LENGTH), generator=random))


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, taken away from it; all there must be."""
    found = {}
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        found[name], p.grad = p.grad, None
    return found


def rows_of_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions of every chunk of logits from now on; a whole pass through a head fails."""
    rows: list[int] = []
    logits = Hidden.logits

    def seen(self: Hidden, part: slice) -> Tensor:
        rows.append(self.h[:, part].shape[1])
        return logits(self, part)

    def head(self: Head, h: Tensor) -> Tensor:
        assert self.skipped, "a whole pass through the head"
        return h

    monkeypatch.setattr(Hidden, "logits", seen)
    monkeypatch.setattr(Head, "forward", head)
    return rows
