r"""A text host's backbone as a `Denoiser`: sigma in, logits out, SUBS around it.

The hosts condition on the total noise sigma = -log \alpha_t, or on zeros where the model does not
know the time (MDLM's `time_conditioning`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.attach import Head, exact_head, latent_shape
from di4c_plugin.networks.denoiser import normalise, repeated


class BackboneDenoiser(nn.Module):
    """Log p_{0|t} by a backbone called as `backbone(x_t, sigma)`, its last layer in fp32."""

    def __init__(self, backbone: nn.Module, process: Process, *, time_conditioned: bool) -> None:
        super().__init__()
        self.backbone, self.process = backbone, process
        self.time_conditioned = time_conditioned
        exact_head(backbone)

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """The shape of one lambda; None for a product model."""
        return latent_shape(self.backbone)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`; these backbones take no labels."""
        logits = self._call(x_t, t, latent)
        x_t, t = repeated(len(logits), x_t, t)
        return normalise(logits, x_t, t, self.process)

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        with self.head.skipping():
            return self._call(x_t, t, latent)

    @property
    def head(self) -> Head:
        """See `HiddenDenoiser.head`."""
        return exact_head(self.backbone)

    def sigma(self, t: Tensor) -> Tensor:
        r"""Return the backbone's second argument for times t (B,): fp32, shape (B,)."""
        if not self.time_conditioned:
            return torch.zeros(len(t), device=t.device)
        scheduled: Any = self.process
        return -scheduled.schedule.alpha(t).log().float()

    def _call(self, x_t: Tensor, t: Tensor, latent: Tensor | None) -> Tensor:
        options = {} if latent is None else {"latent": latent}
        return self.backbone(x_t, self.sigma(t), **options)
