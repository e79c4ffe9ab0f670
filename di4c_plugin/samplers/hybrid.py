"""Hybrid sampling: the student takes the first steps, the teacher the last ones.

Early steps decide many positions at once, where correlations matter; late steps are nearly
independent and the teacher is the better model of each position (Di4C on CIFAR-10).
"""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.ancestral import ancestral
from di4c_plugin.samplers.base import LATENTS, Callback, LatentSource, Step


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
    latents: str | LatentSource = LATENTS,
    callback: Callback | None = None,
) -> Tensor:
    """Carry x from times[0] to times[-1], the last `teacher_steps` steps by `teacher`.

    Other arguments and result as for `ancestral`.

    Raises:
        UserError: if `teacher_steps` is negative or exceeds the number of steps.
    """
    student_steps = len(times) - 1 - teacher_steps
    if teacher_steps < 0 or student_steps < 0:
        raise UserError(f"teacher_steps={teacher_steps} does not fit {len(times) - 1} steps")

    def later(step: Step) -> None:
        if callback is not None:
            callback(Step(step.index + student_steps, step.t, step.s, step.x))

    x = ancestral(
        denoiser,
        x,
        times[: student_steps + 1],
        process=process,
        generator=generator,
        cond=cond,
        latents=latents,
        callback=callback,
    )
    return ancestral(
        teacher,
        x,
        times[student_steps:],
        process=process,
        generator=generator,
        cond=cond,
        latents=latents.policy if isinstance(latents, LatentSource) else latents,
        callback=later,
    )
