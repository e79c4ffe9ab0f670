"""The step to x_0 by draw or argmax, for the likeliest of several lambdas.

tauLDR ends its grid at t_min = 0.01 and takes the argmax of p_{0|t_min} (Campbell et al. 2022);
Di4C adds the choice among several lambdas.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import sample_categorical
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import WithLatent


def likeliest(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    count: int,
    generator: torch.Generator,
    cond: Tensor | None = None,
    mode: str = "draw",
) -> Tensor:
    r"""Return x_0, shape (B, D): of `count` candidates, the one with the largest \sum_d log p^d.

    Each candidate has its own lambda, the first that of the earlier steps, and is a draw from (mode
    "draw") or the argmax of (mode "argmax") p_{0|t}(. | x_t; lambda). A product model has one.

    Raises:
        UserError: if `count` is below 1, and for another mode.
    """
    if count < 1:
        raise UserError(f"last_latents must be at least 1, not {count}")
    if mode not in ("draw", "argmax"):
        raise UserError(f"unknown last step {mode!r}; there are draw, argmax")
    best = torch.full(x_t.shape[:1], -torch.inf, device=x_t.device)
    chosen, mixture = x_t, isinstance(denoiser, WithLatent)
    for index in range(count if mixture else 1):
        latent = denoiser.another(len(x_t)) if index > 0 else None  # type: ignore[attr-defined]
        log_p_0 = denoiser(x_t, t, cond=cond, latent=latent)
        argmax = mode == "argmax"
        x_0 = log_p_0.argmax(-1) if argmax else sample_categorical(log_p_0, generator=generator)
        score = log_p_0.gather(-1, x_0.unsqueeze(-1)).squeeze(-1).sum(-1)
        better = score > best
        best, chosen = torch.where(better, score, best), torch.where(better[:, None], x_0, chosen)
    return chosen
