"""Ancestral sampling: x_s ~ p(x_s | x_t) from t = 1 down, position by position.

For a teacher, the usual sampler of MDLM and D3PM. For a student, a draw from the mixture at every
step: one lambda for each sample, then all positions independently (Di4C, "mixture" models), at one
network call a step like the teacher.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import (
    LATENTS,
    Callback,
    LatentSource,
    Step,
    batch_time,
    inference,
    intervals,
)
from di4c_plugin.samplers.last_step import likeliest


def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    latents: str | LatentSource = LATENTS,
    last_latents: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Carry x, shape (B, D), from times[0] to times[-1].

    Args:
        denoiser: teacher or student.
        x: states at times[0], usually from `process.prior`.
        times: decreasing, shape (steps + 1,), as from `time_grid`.
        process: the forward process the denoiser was trained for.
        generator: on the device of x; two calls with equal generators agree bit for bit.
        cond: class labels (B,), or None.
        latents: how a student's lambda is drawn, see `LatentSource`.
        last_latents: if above 1, the step to t = 0 tries so many lambdas for each sample and keeps
            the likeliest x_0 (Di4C on CIFAR-10).
        callback: called after each step.

    Returns:
        x at times[-1], shape (B, D), int64.

    Raises:
        UserError: for an unknown latent policy, and for `last_latents` below 1.
    """
    draw = LatentSource.of(denoiser, latents, x.shape[0], generator)
    with inference(denoiser):
        for index, t, s in intervals(times):
            time = batch_time(t, x)
            if s == 0 and last_latents != 1:
                x = likeliest(denoiser, x, time, draw, last_latents, generator, cond)
            else:
                log_p_0 = denoiser(x, time, cond=cond, latent=draw())
                x = process.step(log_p_0, x, time, batch_time(s, x), generator=generator)
            if callback is not None:
                callback(Step(index, t, s, x))
    return x
