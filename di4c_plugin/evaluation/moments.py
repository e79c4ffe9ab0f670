"""Mean and covariance of more vectors than fit into memory at once."""

import torch
from torch import Tensor

from di4c_plugin.errors import UserError


class Moments:
    """Sums of vectors, float64, about the first batch's mean, which avoids cancellation."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, x: Tensor) -> None:
        """Add vectors (B, F)."""
        x = x.double()
        if not self.count:
            self._centre = x.mean(0)
            self._sum = torch.zeros_like(self._centre)
            self._outer = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
        x = x - self._centre
        self.count += len(x)
        self._sum += x.sum(0)
        self._outer += x.T @ x

    def result(self) -> tuple[Tensor, Tensor]:
        """Return mean (F,) and unbiased covariance (F, F), float64, on the CPU.

        Raises:
            UserError: if there are fewer than two vectors.
        """
        if self.count < 2:
            raise UserError(f"a covariance takes at least 2 pictures, not {self.count}")
        mean = self._sum / self.count
        covariance = (self._outer - self.count * mean.outer(mean)) / (self.count - 1)
        return (self._centre + mean).cpu(), covariance.cpu()
