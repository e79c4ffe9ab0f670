"""Random times, latents and dropped labels, drawn alike by all algorithms."""

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.networks.denoiser import NO_LABEL, Denoiser
from di4c_plugin.networks.latent import draw_latents


def low_discrepancy_times(count: int, min_time: float, generator: torch.Generator) -> Tensor:
    """Draw `count` times in [min_time, 1), one in each of as many equal cells, shape (count,).

    Each is uniform on its cell, so that a batch covers all times and the mean over it varies less
    (the low-discrepancy sampler of MDLM, Sahoo et al. 2024).
    """
    u = uniform((count,), generator=generator, device=generator.device)
    cell = torch.arange(count, device=generator.device, dtype=torch.float64)
    return min_time + (1 - min_time) * (cell + u) / count


def more_early(t: Tensor, early: float, share: float, min_time: float) -> Tensor:
    """Map times of U[min_time, 1) to the law that is below `early` with probability `share`.

    Uniform on either side; increasing, so that evenly spread times stay so.
    """
    u = (t - min_time) / (1 - min_time)
    below = min_time + (early - min_time) * u / max(share, 1e-12)
    above = early + (1 - early) * (u - share) / max(1 - share, 1e-12)
    return torch.where(u < share, below, above)


def earlier(t: Tensor, step: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return u in [t/2, t), (B,), for steps t - u log-uniform in a range: at most half the way."""
    low, high = step
    share = uniform(t.shape, generator=generator, device=t.device)
    return t - torch.minimum(low * (high / low) ** share, t / 2)


def drop_labels(cond: Tensor | None, share: float, generator: torch.Generator) -> Tensor | None:
    """Replace a random share of the labels by NO_LABEL, for classifier-free guidance."""
    if cond is None:
        return None
    u = uniform(cond.shape, generator=generator, device=cond.device)
    return cond.where(u >= share, NO_LABEL)


def drawn_latent(
    denoiser: Denoiser,
    count: int,
    batch: int,
    generator: torch.Generator,
    *,
    stratified: bool = False,
) -> Tensor | None:
    """Draw `count` lambda for each of `batch` states, (count, batch, *latent_shape).

    None for a product model. See `draw_latents`.
    """
    shape: tuple[int, ...] | None = getattr(denoiser, "latent_shape", None)
    if shape is None:
        return None
    device = generator.device
    return draw_latents(
        shape, count, batch, generator=generator, device=device, stratified=stratified
    )
