"""A metric on tokens: how many samples are no pair of equal bits. Of the data none is."""

from torch import Tensor


def unequal(samples: Tensor, data: Tensor) -> float:
    """Return the share of samples (n, 2) whose bits differ; the data (N, 2) are not needed."""
    return float((samples[:, 0] != samples[:, 1]).double().mean())
