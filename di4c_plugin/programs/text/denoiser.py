r"""A text host's backbone as a `Denoiser`: sigma in, logits out, SUBS around it.

The hosts condition on the total noise sigma = -log \alpha_t, or on zeros where the model does not
know the time (MDLM's `time_conditioning`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Process
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.attach import exact_head
from di4c_plugin.networks.dit import DOORS


class BackboneDenoiser(NetworkDenoiser):
    """Log p_{0|t} by a backbone called as `backbone(x_t, sigma)`, its last layer in fp32."""

    def __init__(self, backbone: nn.Module, process: Process, *, time_conditioned: bool) -> None:
        nn.Module.__init__(self)
        self.backbone, self.process = backbone, process
        self.time_conditioned = time_conditioned
        exact_head(backbone, DOORS["head"])

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """The backbone; checkpoints have it under that name."""
        return self.backbone

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """See `NetworkDenoiser.logits`; these backbones take no labels."""
        options = {} if latent is None else {"latent": latent}
        return self.backbone(x_t, self.sigma(t), **options)

    def sigma(self, t: Tensor) -> Tensor:
        r"""Return the backbone's second argument for times t (B,): fp32, shape (B,)."""
        if not self.time_conditioned:
            return torch.zeros(len(t), device=t.device)
        scheduled: Any = self.process
        return -scheduled.schedule.alpha(t).log().float()
