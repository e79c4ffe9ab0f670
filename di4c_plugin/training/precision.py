"""Networks in bf16 under losses in fp32."""

import torch
from torch import Tensor, nn

from di4c_plugin.networks import NetworkDenoiser


class MixedPrecision(nn.Module):
    """A denoiser under bf16 autocast; the algorithm's own operations stay in fp32.

    Each call is a separate autocast region: autocast caches cast weights for a region, and weights
    cached without gradient would be reused where a gradient is needed.
    """

    def __init__(self, denoiser: NetworkDenoiser, device: torch.device) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.latent_shape, self.process = denoiser.latent_shape, denoiser.process
        self.device_type = device.type

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        with torch.autocast(self.device_type, torch.bfloat16):
            log_p_0: Tensor = self.denoiser(x_t, t, cond=cond, latent=latent)
        return log_p_0

    @property
    def network(self) -> nn.Module:
        """The denoiser's network."""
        return self.denoiser.network

    @property
    def head(self) -> nn.Linear | None:
        """See `HiddenDenoiser.head`."""
        return self.denoiser.head

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.denoiser.hidden(x_t, t, cond=cond, latent=latent)
