r"""Likelihood bounds of masked diffusion with given tokens, as in LLaDA (Nie et al. 2025).

For the likelihood of L tokens x, masked diffusion's evidence lower bound in continuous time is, for
every schedule,

  log p(x | given) >= E_{l ~ U{1 ... L}} E_M (L / l) \sum_{i in M} log p_{0|t}(x_i | x without M)

with M a uniform set of l of the L positions. A time-conditioned network gets t with
1 - \alpha_t ~ Beta(l, L - l + 1), the law of the share of masks given l of them. Unlike the same
integral over t it has a finite variance. For a mixture, log p is that of the mean over N latents,
which lowers the estimate on average, so that it is still a bound.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.diffusion.absorbing import masked_diffusion
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.diffusion.schedule import time_of_share
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.figures import Figure
from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.latent import draw_latents

BOUNDS = "likelihood bounds are"


def bound(
    denoiser: Denoiser,
    process: Process,
    x: Tensor,
    scored: Tensor,
    *,
    count: int = 128,
    latents: int = 1,
    batch_size: int = 32,
    generator: torch.Generator,
) -> Figure:
    """Return the bound of log p(x at `scored` | the rest of x), in nats, with a standard error.

    Args:
        denoiser: of masked diffusion, in eval mode, on the generator's device.
        process: its process.
        x: one sequence (D,), int64; masks where tokens are unknown.
        scored: bool (D,).
        count: number of sets M; their sizes are spread evenly over 1 ... L.
        latents: N of a student.
        batch_size: sequences in a network call.
        generator: source of all draws.

    Raises:
        UserError: for another process, invalid tokens, and fewer than two sets.
    """
    process = masked_diffusion(process, BOUNDS)
    mask = process.mask
    if count < 2 or latents < 1 or batch_size < 1:
        raise UserError("a likelihood bound takes at least 2 sets of masks, 1 latent, 1 at once")
    length = int(scored.sum())
    if not length:
        return Figure(0.0, 0.0, count)
    wrong = (x < 0) | (x >= process.num_tokens) | (x == mask)
    if bool((wrong & scored).any()):
        raise UserError(f"{int(x[wrong & scored][0])} is no token whose likelihood could be asked")
    device, estimates = generator.device, []
    x, scored = x.to(device), scored.to(device)
    tokens = x.where(scored, 0)  # a mask may be no token of the predictions
    v = uniform((count,), generator=generator, device=device)
    sizes = ((torch.arange(count, device=device) + v) / count * length).long() + 1
    with torch.no_grad():
        for part in sizes.split(max(1, batch_size // latents)):
            masked = _masks(part, scored, generator)
            t = _times(process, part, length, generator)
            x_t = torch.where(masked, mask, x)
            log_p = _log_prob(denoiser, x_t, t, tokens, latents, generator)
            total = log_p.double().where(masked, 0).sum(-1)
            estimates.append(total * length / part)
    return _spread_mean(torch.cat(estimates).cpu())


def is_greedy(
    denoiser: Denoiser,
    process: Process,
    x: Tensor,
    scored: Tensor,
    *,
    generator: torch.Generator,
) -> bool:
    """Return whether opening the likeliest token of all masks, one in each call, gives x.

    A student has one latent for all calls. The calls end at the first wrong token.
    """
    process = masked_diffusion(process, BOUNDS)
    mask, shape = process.mask, getattr(denoiser, "latent_shape", None)
    device = generator.device
    x, masks = x.to(device)[None], scored.to(device)[None].clone()
    options = {}
    if shape is not None:
        options["latent"] = draw_latents(shape, 1, 1, generator=generator, device=device)[0]
    with torch.no_grad():
        while bool(masks.any()):
            x_t = torch.where(masks, mask, x)
            share = masks.double().mean(-1).clamp(min=1e-3)
            best, token = denoiser(x_t, time_of_share(process.schedule, share), **options).max(-1)
            position = int(best.where(masks, -torch.inf).argmax())
            if int(token[0, position]) != int(x[0, position]):
                return False
            masks[0, position] = False
    return True


def _masks(sizes: Tensor, scored: Tensor, generator: torch.Generator) -> Tensor:
    """Return uniform sets of `sizes` (B,) scored positions, bool (B, D)."""
    shape = (len(sizes), len(scored))
    order = uniform(shape, generator=generator, device=scored.device).where(scored, 2)
    return order.argsort(-1).argsort(-1) < sizes[:, None]


def _times(process: Absorbing, sizes: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Return times at which `sizes` (B,) of `length` tokens are masked, float64 (B,)."""
    # The l-th smallest of L uniform numbers has the law Beta(l, L - l + 1).
    u = uniform((len(sizes), length), generator=generator, device=sizes.device)
    share = u.sort(-1).values.gather(-1, sizes[:, None] - 1).squeeze(-1)
    return time_of_share(process.schedule, share)


def _log_prob(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    x: Tensor,
    latents: int,
    generator: torch.Generator,
) -> Tensor:
    """Return log p_{0|t}(x_i | x_t), (B, D), of the mean over `latents` lambda of a student."""
    shape, rows = getattr(denoiser, "latent_shape", None), len(x_t)
    index = x.expand(rows, -1).unsqueeze(-1)
    if shape is None:
        return denoiser(x_t, t).gather(-1, index).squeeze(-1)
    latent = draw_latents(
        shape, latents, rows, generator=generator, device=x.device, stratified=True
    )
    log_p = denoiser(x_t, t, latent=latent.flatten(0, 1))
    log_p = log_p.gather(-1, index.repeat(latents, 1, 1)).squeeze(-1)
    return log_mean_exp(log_p.double().view(latents, rows, -1))


def _spread_mean(values: Tensor) -> Figure:
    """Return the mean of values of evenly spread cells, with its standard error.

    The error is from differences of neighbours: slow changes over the cells are not noise.
    """
    n = len(values)
    variance = values.diff().square().sum() / (2 * (n - 1))
    return Figure(float(values.mean()), float((variance / n).sqrt()), n)
