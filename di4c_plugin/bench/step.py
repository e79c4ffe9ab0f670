"""A whole update of Di4C: teacher, student, composition, backward pass and AdamW."""

from collections.abc import Callable
from typing import Any

import torch

from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.bench.cases import StepCase
from di4c_plugin.bench.measure import median_seconds, peak_bytes
from di4c_plugin.bench.networks import autocast, make_models


def make_update(case: StepCase) -> Callable[[], None]:
    """Return a function that does an update, on a batch of random tokens."""
    teacher, student = make_models(case)
    device = torch.device(case.device)
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (case.batch, case.positions)
    x_0 = torch.randint(case.vocab - 1, shape, generator=generator, device=device)
    networks = {"student": student.denoiser, "teacher": teacher.denoiser}
    algorithm = Di4C(
        student.process,
        latents=case.latents,
        loss=case.impl,
        loss_mb=case.budget_mb,
    )
    optimiser = torch.optim.AdamW(student.denoiser.parameters(), fused=device.type == "cuda")

    def update() -> None:
        optimiser.zero_grad()
        with autocast(case):
            terms = algorithm.losses(Batch(x_0), networks, Update(generator))
        terms.total.backward()
        optimiser.step()

    return update


def measure_step(case: StepCase) -> dict[str, Any]:
    """Return "tokens_per_second", "seconds", "peak_mb" and "total_mb".

    The peak is above the weights, gradients and moments that are there between updates; the total
    is all that the process (on CUDA, all that its tensors) held.
    """
    device, update = torch.device(case.device), make_update(case)
    update()
    peak, total = peak_bytes(update, device)
    clock = median_seconds(update, lambda: None, case.repeats, device)
    return {
        "tokens_per_second": case.batch * case.positions / clock,
        "seconds": clock,
        "peak_mb": peak / 1e6,
        "total_mb": total / 1e6,
    }
