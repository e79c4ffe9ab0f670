"""A batch of samples with tokens given, for `di4c_plugin.sample` and the hosts' programs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.checks import check_drawn, drawing
from di4c_plugin.samplers.known import conditioned, without_masks
from di4c_plugin.samplers.sampler import Sampler


def draw_batch(
    draw: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, int],
    times: Tensor,
    process: Process,
    generator: torch.Generator,
    *,
    given: tuple[Tensor, Tensor] | None = None,
    rows: slice = slice(None),
    partners: Mapping[str, Denoiser] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return samples (B, D), int64, on the generator's device.

    Args:
        draw: the sampler.
        denoiser: to sample from.
        shape: (B, D).
        times: the grid.
        process: of the denoiser.
        generator: source of all draws.
        given: tokens and where they are known, (n or 1, D) each; None: none.
        rows: of `given` that are for this batch.
        partners: options that are denoisers, such as hybrid's teacher; they know `given` too.
        options: further ones of the sampler.

    Raises:
        UserError: as the sampler, and for draws that are no tokens of the process.
    """
    device = generator.device
    known = {name: conditioned(d, given, rows, device) for name, d in (partners or {}).items()}
    with drawing():
        x = process.prior(shape, generator=generator, device=device)
        x = without_masks(x, given, rows, process)
        x = draw(
            conditioned(denoiser, given, rows, device),
            x,
            times,
            process=process,
            generator=generator,
            **{**(options or {}), **known},
        )
    return check_drawn(x, process)
