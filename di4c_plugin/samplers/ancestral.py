"""Ancestral sampling, and by two models in turn.

For a teacher, the usual sampler of MDLM and D3PM. For a student, a draw from the mixture at every
step: one lambda for each sample, then all positions independently (Di4C, "mixture" models), at one
network call a step like the teacher.
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import Callback, Rule, walk
from di4c_plugin.samplers.grids import ending_at
from di4c_plugin.samplers.last_step import likeliest
from di4c_plugin.samplers.sampler import sampler


@sampler(grid=ending_at)
def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    last: str | None = None,
    last_latents: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """x_s ~ p(x_s | x_t) from times[0] down, position by position.

    Arguments and result as of `Sampler.__call__`.

    Options:
        last: the step to t = 0: "draw" from p_{0|t}, or its "argmax" (tauLDR); None: as any other.
        last_latents: number of lambdas of which that step keeps the likeliest x_0 (Di4C, CIFAR-10).

    Raises:
        UserError: for an unknown `last`, `last_latents` below 1, and either of them for a grid that
            does not end at 0.
    """
    rule = ancestral_rule(denoiser, times, process, generator, cond, last, last_latents)
    return walk(rule, x, times, callback)


@sampler(grid=ending_at)
def hybrid(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    teacher: Denoiser,
    teacher_steps: int,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    last: str | None = None,
    last_latents: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """The same, the last `teacher_steps` steps by `teacher` (Di4C on CIFAR-10).

    Early steps decide many positions at once, where correlations matter; late steps are nearly
    independent and the teacher is the better model of each position.

    Raises:
        UserError: as `ancestral`, and if `teacher_steps` is negative or exceeds the steps.
    """
    student_steps = len(times) - 1 - teacher_steps
    if teacher_steps < 0 or student_steps < 0:
        raise UserError(f"teacher_steps={teacher_steps} does not fit {len(times) - 1} steps")
    first, then = (
        ancestral_rule(model, times, process, generator, cond, last, last_latents)
        for model in (denoiser, teacher)
    )

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (first if index < student_steps else then)(index, x, t, s)

    return walk(rule, x, times, callback)


def ancestral_rule(
    denoiser: Denoiser,
    times: Tensor,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None,
    last: str | None,
    last_latents: int,
) -> Rule:
    """Return the step of `ancestral`."""
    special = last is not None or last_latents != 1
    if special and times[-1] != 0:
        raise UserError(f"the grid ends at {times[-1]:g}: a last step is for grids that end at 0")

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if special and index == len(times) - 2:
            return likeliest(denoiser, x, t, last_latents, generator, cond, last or "draw")
        return process.step(denoiser(x, t, cond=cond), x, t, s, generator=generator)

    return rule
