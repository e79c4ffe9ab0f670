"""Shared by all samplers: the walk along a grid with callbacks, lambda, and eval mode."""

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
LATENTS = LATENT_POLICIES[0]  # by default; measured in README.md, "One λ, or a new one"


@dataclass(frozen=True)
class Step:
    """The argument of a callback after each step: x is x_s, shape (B, D)."""

    index: int
    t: float
    s: float
    x: Tensor


Callback = Callable[[Step], object]
# (index, x_t, t, s) -> x_s for states (B, D) and times (B,), float64.
Rule = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def walk(rule: Rule, x: Tensor, times: Tensor, callback: Callback | None = None) -> Tensor:
    """Carry x (B, D) from times[0] to times[-1], one interval of the grid after the other."""
    for index, (t, s) in enumerate(pairwise(times.tolist())):
        x = rule(index, x, batch_time(t, x), batch_time(s, x))
        if callback is not None:
            callback(Step(index, t, s, x))
    return x


def batch_time(t: float, x: Tensor) -> Tensor:
    """Return t for each example of x, shape (B,), float64."""
    return torch.full((x.shape[0],), t, dtype=torch.float64, device=x.device)


class WithLatent(nn.Module):
    """A student that draws lambda itself in each call that gives it none.

    Policies: `fixed` keeps one lambda for all calls of a sample, `fresh` draws anew at every call
    (the sampler of Di4C, arXiv 2410.08709), `stratified` draws anew with the batch spread evenly
    over [0, 1). With `fresh` a step draws from the mixture p_{s|t} itself, whatever came before;
    with `fixed` the steps of a sample agree on the mode that its first step chose.
    """

    def __init__(self, student: Denoiser, policy: str, generator: torch.Generator) -> None:
        super().__init__()
        self.student, self.policy, self.generator = student, policy, generator
        self.latent_shape: tuple[int, ...] = student.latent_shape  # type: ignore[attr-defined]
        self._kept: Tensor | None = None

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        if latent is None:
            if self._kept is None or self.policy != "fixed":
                self._kept = self.another(len(x_t))
            latent = self._kept
        return self.student(x_t, t, cond=cond, latent=latent)

    def another(self, batch: int) -> Tensor:
        """Return a new lambda for each example, under any policy."""
        return draw_latents(
            self.latent_shape,
            batch,
            1,
            generator=self.generator,
            device=self.generator.device,
            stratified=self.policy == "stratified",
        ).squeeze(1)


def check_policy(policy: str) -> None:
    """Refuse an unknown policy of lambda; raises UserError."""
    if policy not in LATENT_POLICIES:
        known = ", ".join(LATENT_POLICIES)
        raise UserError(f"unknown latent policy {policy!r}; there are {known}")


def with_latent(denoiser: Denoiser, policy: str, generator: torch.Generator) -> Denoiser:
    """Return a student that draws its lambda, and a product model as it is.

    Raises:
        UserError: for an unknown policy.
    """
    check_policy(policy)
    if getattr(denoiser, "latent_shape", None) is None:
        return denoiser
    return WithLatent(denoiser, policy, generator)


@contextmanager
def inference(*denoisers: Denoiser) -> Iterator[None]:
    """Switch gradients and dropout off, and restore each module's training flag afterwards."""
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
