"""Running means of the loss terms, summed where they are made."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class RunningMeans:
    """Means of named values since they were last read.

    Adding does not wait for an accelerator; only `read` does. Names may come and go, as with
    algorithms that alternate between networks.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one value to each mean that is named."""
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def average(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Replace this process's sums by the mean over all processes; a collective operation."""
        if self.sums:
            sums = reduce(torch.stack(list(self.sums.values())))
            self.sums = dict(zip(self.sums, sums.unbind(), strict=True))

    def read(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
