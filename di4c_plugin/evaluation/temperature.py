"""Sampling at a temperature: every prediction p(x_0 | x_t) is drawn from as p^(1/T), normalised."""

from dataclasses import replace
from typing import TypeVar, cast

from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import NetworkDenoiser

M = TypeVar("M", bound=Model)
EXTREME = 1e30


class Tempered(nn.Module):
    """A denoiser that predicts softmax(log p / T)."""

    def __init__(self, denoiser: NetworkDenoiser, temperature: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.temperature = min(max(temperature, 1 / EXTREME), EXTREME)  # a finite fp32
        self.process = denoiser.process

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """As of the denoiser."""
        return self.denoiser.latent_shape

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        log_p_0 = self.denoiser(x_t, t, cond=cond, latent=latent)
        return ((log_p_0 - log_p_0.amax(-1, keepdim=True)) / self.temperature).log_softmax(-1)


def tempered(model: M, temperature: float | None) -> M:
    """Return the model at a temperature; itself at 1 and None.

    Raises:
        UserError: for a temperature that is not above 0.
    """
    if temperature is None or temperature == 1:
        return model
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperatures are above 0, not {temperature:g}")
    return replace(model, denoiser=cast(NetworkDenoiser, Tempered(model.denoiser, temperature)))
