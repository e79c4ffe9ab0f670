"""The last step to x_0: by the likeliest of several lambdas, or, from t_min > 0, by draw or argmax.

tauLDR ends its grid at t_min = 0.01 and takes the argmax of p_{0|t_min} (Campbell et al. 2022);
Di4C adds the choice among several lambdas.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import sample_categorical
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import LATENTS, LatentSource, inference


def likeliest(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    draw: LatentSource,
    count: int,
    generator: torch.Generator,
    cond: Tensor | None = None,
    mode: str = "draw",
) -> Tensor:
    r"""Return x_0, shape (B, D): of `count` candidates, the one with the largest \sum_d log p^d.

    Each candidate has its own lambda, the first that of the steps before, and is drawn from (mode
    "draw") or is the argmax of (mode "argmax") p_{0|t}(. | x_t; lambda). Raises UserError if
    `count` is below 1.
    """
    if count < 1:
        raise UserError(f"last_latents must be at least 1, not {count}")
    best = torch.full(x_t.shape[:1], -torch.inf, device=x_t.device)
    kept = x_t
    for index in range(count):
        latent = draw.another() if index else draw()
        log_p_0 = denoiser(x_t, t, cond=cond, latent=latent)
        x_0 = pick(log_p_0, mode, generator)
        score = log_p_0.gather(-1, x_0.unsqueeze(-1)).squeeze(-1).sum(-1)
        better = score > best
        best, kept = torch.where(better, score, best), torch.where(better[:, None], x_0, kept)
    return kept


def pick(log_p_0: Tensor, mode: str, generator: torch.Generator) -> Tensor:
    """Return x_0, shape (B, D), by "draw" or "argmax".

    Raises:
        UserError: for any other mode.
    """
    if mode == "draw":
        return sample_categorical(log_p_0, generator=generator)
    if mode == "argmax":
        return log_p_0.argmax(-1)
    raise UserError(f"unknown last step {mode!r}; there are draw, argmax")


def denoise(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    *,
    generator: torch.Generator,
    cond: Tensor | None = None,
    latents: str | LatentSource = LATENTS,
    last_latents: int = 1,
    mode: str = "argmax",
) -> Tensor:
    """Return x_0 from x_t in one call, for grids that end at t_min > 0; shapes as `likeliest`."""
    draw = LatentSource.of(denoiser, latents, x.shape[0], generator)
    with inference(denoiser):
        return likeliest(denoiser, x, t, draw, last_latents, generator, cond, mode)


def ending_at(times: Tensor, min_time: float) -> Tensor:
    """Return the grid (steps + 1,) that ends at 0 with its last step starting at `min_time`.

    The other times are spread alike: an even grid of n steps becomes the n even times 1 ...
    min_time and 0, as tauLDR's (one step starts at 1). With min_time = 0 it stays as it is.

    Raises:
        UserError: if `min_time` is not in [0, times[0]), or the grid does not end at 0.
    """
    if min_time == 0:
        return times
    first, last = times[0], times[-2]
    if not 0 <= min_time < first or times[-1] != 0:
        raise UserError(
            f"min_time must be in [0, 1), of a grid that ends at 0, not {min_time} of a grid from "
            f"{first:g} to {times[-1]:g}"
        )
    if len(times) == 2:
        return times
    share = (times[:-1] - last) / (first - last)
    return torch.cat([min_time + (first - min_time) * share, times[-1:]])
