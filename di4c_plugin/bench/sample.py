"""What lambda costs at sampling: a call of the student beside a call of its teacher."""

import random
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch

from di4c_plugin.bench.cases import SampleCase
from di4c_plugin.bench.measure import seconds
from di4c_plugin.bench.networks import autocast, make_models

WARM_UP = 3


def make_calls(case: SampleCase) -> dict[str, Callable[[], Any]]:
    """Return functions "teacher" and "student", each one network call on the same masks."""
    models = dict(zip(("teacher", "student"), make_models(case), strict=True))
    device = torch.device(case.device)
    x_t = torch.full((case.batch, case.positions), case.vocab - 1, device=device)
    t = torch.ones(case.batch, dtype=torch.float64, device=device)

    def call_of(name: str) -> Callable[[], Any]:
        denoiser = models[name].denoiser.eval()
        shape = denoiser.latent_shape
        latent = None if shape is None else torch.rand(case.batch, *shape, device=device)

        def call() -> None:
            with torch.no_grad(), autocast(case):
                denoiser(x_t, t, latent=latent)

        return call

    return {name: call_of(name) for name in models}


def measure_sample(case: SampleCase) -> dict[str, Any]:
    """Return the median "ratio" of student to teacher over pairs of calls, and its spread.

    The two of a pair follow each other, in random order, so that neither what else the machine does
    nor its warming up favours one. "ratio_spread" is half the distance between the quartiles.
    """
    calls, device = make_calls(case), torch.device(case.device)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    rng = random.Random(case.seed)
    pairs = []
    for _ in range(case.repeats):
        order = rng.sample(sorted(calls), 2)
        pairs.append({name: seconds(calls[name], device) for name in order})
    ratios = [pair["student"] / pair["teacher"] for pair in pairs]
    return {
        "ratio": median(ratios),
        "ratio_spread": spread(ratios),
        "teacher_seconds": median(pair["teacher"] for pair in pairs),
        "student_seconds": median(pair["student"] for pair in pairs),
    }


def spread(values: list[float]) -> float | None:
    """Return half the distance between the quartiles; of a single value None."""
    if len(values) < 2:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2
