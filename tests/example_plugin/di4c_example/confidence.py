"""MaskGIT's sampler (Chang et al. 2022, section 3.3): reveal first what the network is sure of."""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process, sample_categorical
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import Callback, Step, batch_time, inference, intervals


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

    Arguments as for `di4c_plugin.samplers.ancestral`, for absorbing processes.
    """
    with inference(denoiser):
        for index, t, s in intervals(times):
            log_p_0 = denoiser(x, batch_time(t, x), cond=cond)
            drawn = sample_categorical(log_p_0, generator=generator)
            sureness = log_p_0.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            # Revealed positions come first and stay as they are.
            sureness = sureness.masked_fill(~process.active(x), torch.inf)
            rank = sureness.argsort(-1, descending=True).argsort(-1)
            reveal = process.active(x) & (rank < x.shape[-1] - int(s * x.shape[-1]))
            x = torch.where(reveal, drawn, x)
            if callback is not None:
                callback(Step(index, t, s, x))
    return x
