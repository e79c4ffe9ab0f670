r"""MaskGIT's samplers for any model of masked diffusion: by confidence, or in Halton order.

The orders are those of the processes `Confidence` and `Halton`, with which `ancestral` and `hybrid`
do the same. Here the model keeps its own process, and a sample keeps its start in the Halton order.
The grid decides how many tokens a step opens, see `counting`: at least one while there are masks; a
single step opens all.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Confidence, Halton, Ordered, Process
from di4c_plugin.diffusion.absorbing import masked_diffusion
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import Callback, walk
from di4c_plugin.samplers.grids import SAMPLER, counting
from di4c_plugin.samplers.sampler import sampler


@sampler(grid=counting)
def maskgit(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    temperature: float = 4.5,
    callback: Callback | None = None,
) -> Tensor:
    """Open the most confident tokens first; arguments and result as of `Sampler.__call__`.

    Options:
        temperature: of the Gumbel noise in the first step; it falls linearly to 0 in the last.

    Raises:
        UserError: for other processes than masked diffusion, and a negative temperature.
    """
    order = ordered_by(Confidence, process, temperature=temperature)
    falling = torch.linspace(temperature, 0, len(times) - 1, dtype=torch.float64, device=x.device)

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        noise = order.step_noise(x.shape, generator=generator, device=x.device)
        log_p_0 = denoiser(x, t, cond=cond)
        return order.open_by(noise, log_p_0, x, order.count(x, t, s), falling[index].expand_as(t))

    return walk(rule, x, times, callback)


@sampler(guidance_ramp="constant")  # as Halton-MaskGIT's
def halton(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    randomize: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Open tokens in the Halton order of the grid; arguments and result as of `Sampler.__call__`.

    Options:
        grid: height and width; None: of the process, or a square.
        randomize: start each sample at a random rank of the order and wrap around; an option of
            Halton-MaskGIT, off by default, on in its README.

    Raises:
        UserError: for other processes than masked diffusion, and where the positions do not fill
            the grid.
    """
    grid = grid or getattr(process, "grid", None)
    order = ordered_by(Halton, process, grid=grid, randomize=randomize)
    start = order.step_noise(x.shape, generator=generator, device=x.device)[0]

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        noise = order.step_noise(x.shape, generator=generator, device=x.device)
        noise = torch.stack([start, noise[1]])
        log_p_0 = denoiser(x, t, cond=cond)
        return order.open_by(noise, log_p_0, x, order.count(x, t, s), torch.zeros_like(t))

    return walk(rule, x, times, callback)


def ordered_by(order: type[Ordered], process: Process, **options: object) -> Ordered:
    """Return a process of the order with tokens, mask and schedule of `process`."""
    absorbing = masked_diffusion(process, SAMPLER)
    mask = absorbing.mask if absorbing.mask_is_token else None
    return order(absorbing.num_tokens, absorbing.schedule, mask=mask, **options)
