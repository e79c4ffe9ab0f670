r"""Classifier-free guidance: log p ~ (1 + w) log p(. | class) - w log p(. | no class).

Ho & Salimans 2022; as in MaskGIT and Di4C on ImageNet, at the same lambda in both branches. A
denoiser's log-probabilities are its logits but for a constant, which drops out.
"""

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import NO_LABEL, Denoiser, repeated

RAMPS = ("linear", "constant")


class Guided(nn.Module):
    r"""A denoiser whose prediction is log_softmax((1 + w_i) log p_c - w_i log p_u) in step i.

    With n steps, w_i = weight * i / (n - 1) ("linear", as MaskGIT's confidence samplers; `weight`
    for a single step) or w_i = weight ("constant", as Halton-MaskGIT's sampler). The time decides
    the step: a call at t belongs to the step of the grid that starts at or before t.

    Args:
        denoiser: conditional and, with the label -1, unconditional.
        weight: w; 0 is the conditional prediction itself.
        times: the grid of the sampler, (n + 1,), decreasing.
        unconditional: another model for p_u, such as the teacher; it gets no lambda, unless it is
            a mixture itself.
        ramp: "linear" or "constant".

    Raises:
        UserError: for an unknown ramp, and in a call without labels that needs them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        weight: float,
        *,
        times: Tensor,
        unconditional: Denoiser | None = None,
        ramp: str = "linear",
    ) -> None:
        super().__init__()
        if ramp not in RAMPS:
            raise UserError(f"unknown guidance_ramp {ramp!r}; there are {', '.join(RAMPS)}")
        self.denoiser, self.unconditional = denoiser, unconditional
        self.weight, self.ramp, self.times = weight, ramp, times

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """As of the denoiser."""
        return getattr(self.denoiser, "latent_shape", None)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        log_c = self.denoiser(x_t, t, cond=cond, latent=latent)
        if self.weight == 0:
            return log_c
        log_u = self._unconditional(x_t, t, cond, latent)
        log_u, w = repeated(len(log_c), log_u, self.weight_at(t))
        w = w.view(-1, 1, 1).to(log_c.dtype)
        # As a difference: where both are certain, LOG_ZERO stays what it is.
        guided = (log_c + w * (log_c - log_u)).log_softmax(-1)
        return torch.where(w == 0, log_c, guided)

    def weight_at(self, t: Tensor) -> Tensor:
        """Return w_i for times t (B,), float64."""
        steps = len(self.times) - 1
        if self.ramp == "constant" or steps <= 1:
            return torch.full_like(t, self.weight, dtype=torch.float64)
        starts = self.times[:-1].to(t.device)
        index = (starts > t.unsqueeze(-1)).sum(-1).clamp(max=steps - 1)
        return self.weight * index.double() / (steps - 1)

    def _unconditional(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None
    ) -> Tensor:
        model = self.unconditional
        if model is None and cond is None:
            raise UserError("guidance is towards a class: give labels, or a guidance_teacher")
        none = None if cond is None else torch.full_like(cond, NO_LABEL)
        if model is None:
            return self.denoiser(x_t, t, cond=none, latent=latent)
        mixture = getattr(model, "latent_shape", None) is not None
        return model(x_t, t, cond=none, latent=latent if mixture else None)


def guide(
    denoiser: Denoiser, times: Tensor, weight: float, ramp: str, unconditional: Denoiser | None
) -> Denoiser:
    """Return the denoiser guided on the grid `times`; itself at weight 0. Errors as `Guided`."""
    if unconditional is not None and not callable(unconditional):
        raise UserError(f"guidance_teacher takes a model, not {unconditional!r:.60}")
    guided = Guided(denoiser, weight, times=times, unconditional=unconditional, ramp=ramp)
    return guided if weight else denoiser
