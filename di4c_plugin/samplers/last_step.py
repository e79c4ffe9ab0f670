"""The last step to x_0: by the likeliest of several lambdas, or, from t_min > 0, by draw or argmax.

tauLDR ends its grid at t_min = 0.01 and takes the argmax of p_{0|t_min} (Campbell et al. 2022);
Di4C adds the choice among several lambdas. Tests: tests/samplers/test_last_step.py.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import sample_categorical
from di4c_plugin.errors import UserError
from di4c_plugin.models.denoiser import Denoiser
from di4c_plugin.samplers.base import LatentSource, inference


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

    Each candidate has its own lambda and is drawn from (mode "draw") or is the argmax of (mode
    "argmax") p_{0|t}(. | x_t; lambda). Raises UserError if `count` is below 1.
    """
    if count < 1:
        raise UserError(f"last_latents must be at least 1, not {count}")
    best = torch.full(x_t.shape[:1], -torch.inf, device=x_t.device)
    kept = x_t
    for _ in range(count):
        log_p_0 = denoiser(x_t, t, cond=cond, latent=draw())
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
    latents: str = "fresh",
    last_latents: int = 1,
    mode: str = "argmax",
) -> Tensor:
    """Return x_0 from x_t in one call, for grids that end at t_min > 0; shapes as `likeliest`."""
    draw = LatentSource(denoiser, latents, x.shape[0], generator)
    with inference(denoiser):
        return likeliest(denoiser, x, t, draw, last_latents, generator, cond, mode)
