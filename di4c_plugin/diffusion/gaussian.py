r"""tauLDR's discretised Gaussian: a time-changed Markov chain whose jumps prefer near values.

Campbell et al. 2022 (arXiv 2205.14987), the rate of its CIFAR-10 model. With states i = 0 ... S-1,
base rates inwards (towards the middle, at most to the mirror image) are
R_ij = exp(-(|i - j| - 1)^2 / rate_sigma^2), rates outwards follow from detailed balance with
\pi_i ~ exp(-(i + 1 - S/2)^2 / (2 Q_sigma^2)), and R(t) = \beta(t) R with
\int_0^t \beta = time_base (time_exponential^t - 1).
"""

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import sample_categorical
from di4c_plugin.diffusion.process import MatrixProcess
from di4c_plugin.errors import UserError
from di4c_plugin.values import Range

# Terms of the Poisson mixture, whose mean is at most 1: the rest is below 1e-46.
POWERS = 40
MOST = 1024  # tokens: there are as many matrices of S x S numbers


Width = Annotated[float, Range(1e-3, 1e6)]


class DiscretisedGaussian(MatrixProcess):
    """The forward process of tauLDR's CIFAR-10 model; defaults are its released values.

    Raises:
        UserError: for fewer than 2 or more than `MOST` tokens, and widths so small that some levels
            are never reached.
    """

    def __init__(
        self,
        num_tokens: int,
        *,
        rate_sigma: Width = 6.0,
        q_sigma: Width = 512.0,
        time_exponential: Annotated[float, Range(1.001, 1e6)] = 100.0,
        time_base: Width = 3.0,
    ) -> None:
        if not 2 <= num_tokens <= MOST:
            raise UserError(f"this process is for 2 to {MOST} tokens, not {num_tokens}")
        super().__init__(num_tokens, num_tokens)
        self.rate_sigma, self.q_sigma = rate_sigma, q_sigma
        self.time_exponential, self.time_base = time_exponential, time_base
        self.stationary = stationary(num_tokens, q_sigma)
        self.rate = rate_matrix(num_tokens, rate_sigma, self.stationary)
        if not (self.rate.isfinite().all() and self.stationary.min() > 0):
            raise UserError(
                f"rate_sigma={rate_sigma:g} and q_sigma={q_sigma:g} are too narrow for "
                f"{num_tokens} levels"
            )
        # Uniformisation: e^{tau R} is a Poisson mixture of powers of the jumps I + R / Lambda.
        self._fastest = float(-self.rate.diagonal().min())
        jump = torch.eye(num_tokens, dtype=torch.float64) + self.rate / self._fastest
        powers = [torch.eye(num_tokens, dtype=torch.float64)]
        for _ in range(POWERS - 1):
            powers.append(powers[-1] @ jump)
        self._powers = torch.stack(powers)

    @property
    def config(self) -> dict[str, Any]:
        """See `Process.config`."""
        return {
            "name": "gaussian",
            "num_tokens": self.num_tokens,
            "rate_sigma": self.rate_sigma,
            "q_sigma": self.q_sigma,
            "time_exponential": self.time_exponential,
            "time_base": self.time_base,
        }

    def prior(
        self, shape: tuple[int, int], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """See `Process.prior`; the stationary law, which q_{1|0} has all but reached."""
        log_p = self.stationary.log().to(device).expand(*shape, -1)
        return sample_categorical(log_p, generator=generator)

    def elapsed(self, t: Tensor) -> Tensor:
        r"""Return \int_0^t \beta in float64, of the shape of `t`."""
        return self.time_base * (self.time_exponential ** t.double() - 1)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """See `Process.transition`: exp of the rate matrix over the elapsed time.

        Only non-negative numbers are added and multiplied, so that every entry is exact to a few
        units in the last place however small it is: posteriors divide by them. An
        eigendecomposition is exact only relative to the largest entry.
        """
        intervals, index = torch.stack([s.double(), t.double()]).unique(dim=1, return_inverse=True)
        jumps = self._fastest * (self.elapsed(intervals[1]) - self.elapsed(intervals[0]))
        halvings = max(0, math.ceil(math.log2(max(float(jumps.max()), 1.0))))
        mean = jumps.unsqueeze(1) / 2**halvings
        k = torch.arange(POWERS, dtype=torch.float64, device=t.device)
        poisson = torch.exp(torch.xlogy(k, mean) - mean - torch.lgamma(k + 1))
        q = torch.einsum("bk,kij->bij", poisson, self._powers.to(t.device))
        for _ in range(halvings):
            q = q @ q
        return (q / q.sum(-1, keepdim=True))[index]


def stationary(size: int, q_sigma: float) -> Tensor:
    r"""Return \pi, shape (S,), float64, normalised."""
    offset = torch.arange(1, size + 1, dtype=torch.float64) - size / 2
    return torch.softmax(-(offset**2) / (2 * q_sigma**2), 0)


def rate_matrix(size: int, rate_sigma: float, pi: Tensor) -> Tensor:
    r"""Return the base rates R (S, S), float64: rows sum to 0, \pi_i R_ij = \pi_j R_ji."""
    i = torch.arange(size, dtype=torch.float64)[:, None]
    j = i.T
    upward = (i < size // 2) & (j > i) & (j < size - i)
    downward = (i > size // 2) & (j < i) & (j > size - 1 - i)
    inward = (upward | downward) * torch.exp(-(((i - j).abs() - 1) ** 2) / rate_sigma**2)
    rate = inward + (inward * pi[:, None]).T / pi[:, None]
    return rate - torch.diag(rate.sum(1))
