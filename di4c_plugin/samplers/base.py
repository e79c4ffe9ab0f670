"""What samplers share: where lambda comes from, inference mode, the report of a step.

Tests: tests/samplers/test_ancestral.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.models.denoiser import Denoiser
from di4c_plugin.models.latent import draw_latents

LATENT_POLICIES = ("fresh", "fixed", "stratified")


@dataclass(frozen=True)
class Step:
    """What a callback sees after each step: x is x_s, shape (B, D)."""

    index: int
    t: float
    s: float
    x: Tensor


Callback = Callable[[Step], None]


def check_policy(policy: object) -> None:
    """Refuse what is no policy of `LatentSource`; raises UserError listing those that exist."""
    if policy not in LATENT_POLICIES:
        known = ", ".join(LATENT_POLICIES)
        raise UserError(f"unknown latent policy {policy!r}; there are {known}")


class LatentSource:
    """One lambda for each sample and step, or None for a product model.

    Policies: `fresh` draws anew at every step (Di4C's sampler), `fixed` keeps the first draw,
    `stratified` draws anew with the batch spread evenly over [0, 1).
    """

    def __init__(self, denoiser: Denoiser, policy: str, batch: int, generator: torch.Generator):
        check_policy(policy)
        self.shape: tuple[int, ...] | None = getattr(denoiser, "latent_shape", None)
        self.policy, self.batch, self.generator = policy, batch, generator
        self._kept: Tensor | None = None

    def __call__(self) -> Tensor | None:
        """Return lambda for the coming step, shape (B, *latent_shape)."""
        if self.shape is None:
            return None
        if self.policy == "fixed" and self._kept is not None:
            return self._kept
        self._kept = draw_latents(
            self.shape,
            self.batch,
            1,
            generator=self.generator,
            device=self.generator.device,
            stratified=self.policy == "stratified",
        ).squeeze(1)
        return self._kept


@contextmanager
def inference(*denoisers: Denoiser) -> Iterator[None]:
    """Switch gradients and dropout off, and each part's training flag back afterwards."""
    modules = [d for d in denoisers if isinstance(d, nn.Module)]
    flags = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in flags:
            part.training = training


def intervals(times: Tensor) -> Iterator[tuple[int, float, float]]:
    """Yield (index, t, s) for each step of a decreasing time grid."""
    for index, (t, s) in enumerate(pairwise(times.tolist())):
        yield index, t, s


def batch_time(t: float, x: Tensor) -> Tensor:
    """Return t for each example of x, shape (B,), float64."""
    return torch.full((x.shape[0],), t, dtype=torch.float64, device=x.device)
