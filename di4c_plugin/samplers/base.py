"""What samplers share: where lambda comes from, inference mode, the report of a step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.latent import draw_latents

LATENT_POLICIES = ("fixed", "fresh", "stratified")
LATENTS = LATENT_POLICIES[0]  # by default; measured in the README, "One λ, or a new one"


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

    Policies: `fixed` keeps one lambda for all steps of a sample, `fresh` draws anew at every step
    (the sampler of Di4C, arXiv 2410.08709), `stratified` draws anew with the batch spread evenly
    over [0, 1). With `fresh` a step draws from the mixture p_{s|t} itself, whatever came before;
    with `fixed` the steps of a sample agree on the mode that its first step chose.
    """

    def __init__(self, denoiser: Denoiser, policy: str, batch: int, generator: torch.Generator):
        check_policy(policy)
        self.shape: tuple[int, ...] | None = getattr(denoiser, "latent_shape", None)
        self.policy, self.batch, self.generator = policy, batch, generator
        self._kept: Tensor | None = None

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        latents: "str | LatentSource",
        batch: int,
        generator: torch.Generator,
    ) -> "LatentSource":
        """Return the source of a policy, or the one given: for a run in two parts."""
        if isinstance(latents, LatentSource):
            return latents
        return cls(denoiser, latents, batch, generator)

    def __call__(self) -> Tensor | None:
        """Return lambda for the coming step, shape (B, *latent_shape)."""
        if self._kept is None or self.policy != "fixed":
            self._kept = self.another()
        return self._kept

    def another(self) -> Tensor | None:
        """Return one more lambda, whatever the policy keeps."""
        if self.shape is None:
            return None
        return draw_latents(
            self.shape,
            self.batch,
            1,
            generator=self.generator,
            device=self.generator.device,
            stratified=self.policy == "stratified",
        ).squeeze(1)


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
