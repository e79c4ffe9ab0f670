"""Options that every step-by-step sampler shares: guidance, and how the last step is made."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import LatentSource, Step, batch_time
from di4c_plugin.samplers.guidance import guide
from di4c_plugin.samplers.last_step import denoise, ending_at

Draw = Callable[..., Tensor]


def steered(sampler: Draw) -> Draw:
    """Return `ancestral` or `hybrid` with further options; without them it is the sampler itself.

    Options:
        guidance: weight of classifier-free guidance, see `Guided`; a hybrid's teacher is guided by
            its own unconditional branch.
        guidance_ramp: "linear" or "constant" over the steps.
        guidance_teacher: the model that predicts without a class; None: the denoiser itself.
        min_time: where the last step starts, see `ending_at`; tauLDR's is 0.01.
        last: the last step: "draw" from p_{0|t}, or its "argmax" (tauLDR); None: the sampler's.
        last_latents: of so many lambdas the last step keeps the likeliest x_0.

    The sampler then raises UserError also for an unknown ramp or mode, guidance without labels, and
    a last step of a grid that does not end at 0.
    """

    @functools.wraps(sampler)
    def draw(
        denoiser: Denoiser,
        x: Tensor,
        times: Tensor,
        *,
        guidance: float = 0.0,
        guidance_ramp: str = "linear",
        guidance_teacher: Denoiser | None = None,
        min_time: float = 0.0,
        last: str | None = None,
        last_latents: int = 1,
        **options: Any,
    ) -> Tensor:
        times = ending_at(times, min_time)
        denoiser = guide(denoiser, times, guidance, guidance_ramp, guidance_teacher)
        if "teacher" in options:
            teacher = guide(options["teacher"], times, guidance, guidance_ramp, None)
            options = options | {"teacher": teacher}
        if last is None and last_latents == 1:
            return sampler(denoiser, x, times, **options)
        return _then_denoise(
            sampler, denoiser, x, times, options, mode=last or "draw", last_latents=last_latents
        )

    draw.__signature__ = _joint(sampler, draw)  # type: ignore[attr-defined]
    return draw


def _then_denoise(
    sampler: Draw,
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    options: dict[str, Any],
    **last: Any,
) -> Tensor:
    """Sample along all but the last interval, then `denoise` by whose turn it is.

    Both parts have one source of lambda, so that what a policy keeps is kept to the end.
    """
    if times[-1] != 0:
        raise UserError(f"the grid ends at {times[-1]:g}: a last step is for grids that end at 0")
    steps, finisher = len(times) - 1, denoiser
    if "teacher" in options:
        teacher_steps = options["teacher_steps"]
        if not 0 <= teacher_steps <= steps:
            raise UserError(f"teacher_steps={teacher_steps} does not fit {steps} steps")
        finisher = options["teacher"] if teacher_steps else denoiser
        options = options | {"teacher_steps": max(teacher_steps - 1, 0)}
    generator, cond = options["generator"], options.get("cond")
    policy = inspect.signature(sampler).parameters["latents"].default
    source = LatentSource.of(denoiser, options.get("latents", policy), len(x), generator)
    x = sampler(denoiser, x, times[:-1], **options | {"latents": source})
    t = float(times[-2])
    latents = source if finisher is denoiser else source.policy
    x = denoise(
        finisher, x, batch_time(t, x), generator=generator, cond=cond, latents=latents, **last
    )
    if options.get("callback") is not None:
        options["callback"](Step(steps - 1, t, 0.0, x))
    return x


def _joint(sampler: Draw, draw: Draw) -> inspect.Signature:
    """Return the sampler's signature with the options that are added to it."""
    signature = inspect.signature(sampler)
    added = inspect.signature(draw, follow_wrapped=False).parameters
    own = {k: v for k, v in added.items() if v.kind is v.KEYWORD_ONLY}
    return signature.replace(parameters=[*(signature.parameters | own).values()])
