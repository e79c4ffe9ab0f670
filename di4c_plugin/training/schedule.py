"""The learning rate over a run."""

import math

START, END = 1 / 25, 1 / 250_000


def lr_factor(update: int, *, steps: int, schedule: str, warmup: float) -> float:
    """Return the learning rate of update `update`, from 0, as a fraction of the peak.

    A half cosine rises from 1/25 to 1 in the fraction `warmup` of the updates. Then "constant"
    stays at 1, and "one_cycle" falls by a half cosine to 1/250 000 at the last update: the curve of
    `torch.optim.lr_scheduler.OneCycleLR` at its defaults (Smith & Topin 2018), without its cycling
    of the momentum.
    """
    peak = max(warmup * steps - 1, 0)
    if update < peak:
        return _half_cosine(START, 1, update / peak)
    if schedule == "constant":
        return 1.0
    return _half_cosine(1, END, min((update - peak) / max(steps - 1 - peak, 1), 1))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
