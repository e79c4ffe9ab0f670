r"""MaskGIT's samplers for any model of masked diffusion: by confidence, or in Halton order.

The orders are those of `Confidence` and `Halton`, processes with which `ancestral` and `hybrid` do
the same. Here the model keeps its own process, a sample keeps its starting place in the Halton
order, and there are the three ways in which the hosts count what is open after step i = 0 ... n-1
of n, with D positions and \gamma = 1 - \alpha, the masked share:
  schedule    D (1 - \gamma((n-1-i)/n)): Halton-MaskGIT's HaltonSampler, Chang et al. 2022
  shifted     D (1 - \gamma(1 - i/(n-1))), the first step opens one: its ConfidenceSampler
  increments  step i itself opens D \gamma(i/(n-1)) / sum, the first one: Maskgit-pytorch v1; the
              official Di4C's copy of it counts as "schedule"
A step opens at least one token as long as there are masks; one step opens all.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Confidence, Halton, Ordered, Process, Schedule
from di4c_plugin.errors import UserError
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
from di4c_plugin.samplers.guidance import guide


def maskgit(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    latents: str | LatentSource = LATENTS,
    temperature: float = 4.5,
    counts: str = "schedule",
    guidance: float = 0.0,
    guidance_ramp: str = "linear",
    guidance_teacher: Denoiser | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Carry x, shape (B, D), from times[0] to times[-1], opening the most confident tokens first.

    Args:
        denoiser: teacher or student.
        x: states at times[0].
        times: decreasing, (steps + 1,).
        process: masked diffusion.
        generator: on the device of x.
        cond: class labels (B,), or None.
        latents: how a student's lambda is drawn, see `LatentSource`.
        temperature: of the Gumbel noise in the first step; it falls linearly to 0 in the last.
        counts: how many tokens open: "schedule" (at `times`), "shifted", "increments"; see above.
        guidance: weight of classifier-free guidance, see `Guided`; both hosts use 3 by default.
        guidance_ramp: "linear" or "constant" over the steps.
        guidance_teacher: the model that predicts without a class; None: the denoiser itself.
        callback: called after each step.

    Returns:
        x at times[-1], shape (B, D), int64.

    Raises:
        UserError: for other processes, unknown policies, ramps and counts, a negative temperature,
            other counts than "schedule" for a grid that is not from 1 to 0, and guidance without
            labels.
    """
    known = _masked(process)
    order = Confidence(
        known.num_tokens, known.schedule, mask=_mask_token(known), temperature=temperature
    )
    times = counted_times(times, counts, x.shape[1], known.schedule)
    denoiser = guide(denoiser, times, guidance, guidance_ramp, guidance_teacher)
    draw = LatentSource.of(denoiser, latents, x.shape[0], generator)
    falling = torch.linspace(temperature, 0, len(times) - 1, dtype=torch.float64, device=x.device)
    with inference(denoiser):
        for index, t, s in intervals(times):
            noise = order.step_noise(x.shape, generator=generator, device=x.device)
            x = _step(order, denoiser, x, (t, s), noise, cond, draw(), falling[index])
            if callback is not None:
                callback(Step(index, t, s, x))
    return x


def halton(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    latents: str | LatentSource = LATENTS,
    grid: tuple[int, int] | None = None,
    randomize: bool = False,
    guidance: float = 0.0,
    guidance_ramp: str = "constant",
    guidance_teacher: Denoiser | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Carry x from times[0] to times[-1], opening tokens in the Halton order of the grid.

    Args:
        denoiser: teacher or student.
        x: states at times[0].
        times: decreasing, (steps + 1,).
        process: masked diffusion.
        generator: on the device of x.
        cond: class labels (B,), or None.
        latents: how a student's lambda is drawn, see `LatentSource`.
        grid: height and width; None: of the process, or a square.
        randomize: start each sample at a random place of the order and go round; an option of
            Halton-MaskGIT, off by default, on in its README.
        guidance: weight of classifier-free guidance, see `Guided`.
        guidance_ramp: "linear", or "constant" over the steps as in Halton-MaskGIT.
        guidance_teacher: the model that predicts without a class; None: the denoiser itself.
        callback: called after each step.

    Returns:
        As `maskgit`.

    Raises:
        UserError: for other processes, unknown policies and ramps, guidance without labels, and
            where the positions do not fill the grid.
    """
    known = _masked(process)
    order = Halton(
        known.num_tokens,
        known.schedule,
        mask=_mask_token(known),
        grid=grid or getattr(process, "grid", None),
        randomize=randomize,
    )
    denoiser = guide(denoiser, times, guidance, guidance_ramp, guidance_teacher)
    draw = LatentSource.of(denoiser, latents, x.shape[0], generator)
    start = order.step_noise(x.shape, generator=generator, device=x.device)[0]
    cold = torch.zeros((), dtype=torch.float64, device=x.device)
    with inference(denoiser):
        for index, t, s in intervals(times):
            noise = order.step_noise(x.shape, generator=generator, device=x.device)
            noise = torch.stack([start, noise[1]])
            x = _step(order, denoiser, x, (t, s), noise, cond, draw(), cold)
            if callback is not None:
                callback(Step(index, t, s, x))
    return x


def _step(
    order: Ordered,
    denoiser: Denoiser,
    x: Tensor,
    interval: tuple[float, float],
    noise: Tensor,
    cond: Tensor | None,
    latent: Tensor | None,
    temperature: Tensor,
) -> Tensor:
    t, s = (batch_time(time, x) for time in interval)
    log_p_0 = denoiser(x, t, cond=cond, latent=latent)
    return order.open_by(noise, log_p_0, x, order.count(x, t, s), temperature.expand(len(x)))


def counted_times(times: Tensor, counts: str, positions: int, schedule: Schedule) -> Tensor:
    """Return the grid (steps + 1,) at which `schedule` has these counts: `times` for "schedule".

    Raises:
        UserError: for unknown counts, and for others than "schedule" if `times` is not from 1 to 0.
    """
    if counts == "schedule":
        return times
    if counts not in COUNTS:
        raise UserError(f"unknown counts {counts!r}; there are schedule, {', '.join(COUNTS)}")
    if times[0] != 1 or times[-1] != 0:
        raise UserError(f"counts={counts} is for grids from 1 to 0")
    opened = COUNTS[counts](len(times) - 1, positions, schedule)
    share = 1 - torch.tensor(opened[:-1], dtype=torch.float64) / positions
    low, high = torch.zeros_like(share), torch.ones_like(share)
    for _ in range(64):
        middle = (low + high) / 2
        above = 1 - schedule.alpha(middle) > share
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.cat([times[:1], low.to(times), times[-1:]])


def shifted(steps: int, positions: int, schedule: Schedule) -> list[int]:
    """Return how many tokens are open after each step of Halton-MaskGIT's ConfidenceSampler."""
    t = torch.linspace(1, 0, steps, dtype=torch.float64)
    share = (positions * schedule.alpha(t)).int().tolist()
    opened = [min(max(count, index + 1), positions) for index, count in enumerate(share)]
    return [*opened[:-1], positions]


def increments(steps: int, positions: int, schedule: Schedule) -> list[int]:
    """Return how many tokens are open after each step of Maskgit-pytorch v1's sampler."""
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    share = 1 - schedule.alpha(t)
    wanted = (positions * share / share.sum().clamp(min=1e-12)).round().clamp(min=1)
    return [*wanted.cumsum(0).clamp(max=positions).int().tolist()[:-1], positions]


COUNTS = {"shifted": shifted, "increments": increments}


def _masked(process: Process) -> Absorbing:
    if not isinstance(process, Absorbing):
        name = process.config["name"]
        raise UserError(f"this sampler is for masked diffusion, not for the process {name!r}")
    return process


def _mask_token(process: Absorbing) -> int | None:
    return process.mask if process.mask_is_token else None
