"""Running means of the loss terms, summed on their device."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class RunningMeans:
    """Means of named values since they were last read.

    Only `read` waits for the accelerator. Names may come and go, as with algorithms that alternate
    between networks.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value to each named mean."""
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def average(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their means over all processes; a collective operation."""
        if self.sums:
            sums = reduce(torch.stack(list(self.sums.values())))
            self.sums = dict(zip(self.sums, sums.unbind(), strict=True))

    def read(self) -> dict[str, float]:
        """Return the means and reset them."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
