"""MaskGIT's sampler (Chang et al. 2022, section 3.3): reveal first what the network is sure of."""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process, sample_categorical
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers import Callback, walk


def confidence(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Carry x, shape (B, D), to times[-1]; at time s, floor(s D) positions are still masked.

    For absorbing processes; arguments as `di4c_plugin.hookspecs.di4c_samplers` says.
    """

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        log_p_0 = denoiser(x, t, cond=cond)
        drawn = sample_categorical(log_p_0, generator=generator)
        sureness = log_p_0.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        # Revealed positions come first and stay as they are.
        sureness = sureness.masked_fill(~process.active(x), torch.inf)
        rank = sureness.argsort(-1, descending=True).argsort(-1)
        open_at_s = x.shape[-1] - (s * x.shape[-1]).long()
        reveal = process.active(x) & (rank < open_at_s.unsqueeze(-1))
        return torch.where(reveal, drawn, x)

    return walk(rule, x, times, callback)
