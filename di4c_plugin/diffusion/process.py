r"""The forward process q and its exact posteriors: the contract of every process.

Notation (as in Di4C, arXiv 2410.08709): x_0 is data, x_t its corruption at t in (0, 1], x_1
is drawn from the prior; q factorises over the D positions. Data tokens are 0 ... S-1; a process may
have further states (the mask). Times are per example, shape (B,), float64.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import inverse_cdf, sample_categorical, uniform

# A finite stand-in for log 0: -inf would turn into 0 * nan in KL sums and gradients.
LOG_ZERO = -1e6


def per_position(value: Tensor) -> Tensor:
    """Reshape a per-example value (B,) to broadcast against (B, D)."""
    return value.unsqueeze(-1)


def safe_log(p: Tensor) -> Tensor:
    """Return log p with log 0 replaced by LOG_ZERO; the gradient at 0 is 0."""
    positive = p > 0
    return torch.where(positive, p.where(positive, 1.0).log(), LOG_ZERO)


class Process(ABC):
    """A factorised forward process on {0, ..., num_states - 1}^D.

    Attributes:
        noises: number of uniform numbers that decide a position's step.
        factorised: whether a step draws position by position, so that `log_posterior` exists and
            some positions can be stepped without the others.
    """

    noises = 1
    factorised: bool = True

    def __init__(self, num_tokens: int, num_states: int) -> None:
        self.num_tokens = num_tokens
        self.num_states = num_states

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The plain values from which `build_process` makes an equal process."""

    @property
    def forward(self) -> dict[str, Any]:
        """The part of `config` that decides q(x_t | x_0), without options of the reverse step."""
        return self.config

    @abstractmethod
    def prior(
        self, shape: tuple[int, int], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Draw x_1, shape (B, D), int64."""

    @abstractmethod
    def corrupt(self, x_0: Tensor, t: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw x_t ~ q(x_t | x_0), shape (B, D), for x_0 (B, D) and t (B,)."""

    @abstractmethod
    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """Return q(x_t | x_s) for s <= t as row-stochastic matrices (B, num_states, num_states)."""

    @abstractmethod
    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r"""Return log p(x_s | x_t) = log \sum_{x_0} q(x_s | x_t, x_0) p_{0|t}(x_0 | x_t).

        Args:
            log_p_0: log p_{0|t}, shape (B, D, S), normalised.
            x_t: shape (B, D), int64.
            t: shape (B,), in (0, 1].
            s: shape (B,), in [0, t).

        Returns:
            Shape (B, D, num_states), normalised, impossible states at LOG_ZERO; for a point mass
            log_p_0 at x_0 this is the posterior q(x_s | x_t, x_0) itself.
        """

    def step(
        self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Draw x_s ~ p(x_s | x_t), shape (B, D); arguments as for `log_posterior`."""
        noise = self.step_noise(x_t.shape, generator=generator, device=x_t.device)
        return self.step_by(noise, log_p_0, x_t, t, s)

    def step_noise(
        self, shape: tuple[int, ...], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Draw the noise of a step, U[0, 1) of shape (`noises`, *shape), float64."""
        return uniform((self.noises, *shape), generator=generator, device=device)

    def step_by(self, noise: Tensor, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return x_s, shape (B, D), as `step`, for the noise (`noises`, B, D) that decides it.

        Noise for n steps from the same x_t, (`noises`, n, B, D), gives x_s (n, B, D) at the cost of
        one posterior.
        """
        return inverse_cdf(shared(self.log_posterior(log_p_0, x_t, t, s), noise[0]), noise[0])

    @abstractmethod
    def bridge(self, noise: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Draw x_s ~ q(x_s | x_t, x_0) for clean tokens x_0; shape ([n,] B, D), int64.

        An x_0 that cannot lead to x_t gives x_t.

        Args:
            noise: U[0, 1) in float64, one for each position: ([n,] B, D).
            x_0: tokens, (B, D) or of the shape of noise.
            x_t: shape (B, D).
            t: shape (B,), in (0, 1].
            s: shape (B,), in [0, t).
        """

    def draw(
        self, noise: Tensor, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw x_0 ~ p_{0|t} and x_s ~ q(x_s | x_t, x_0): a step, and its x_0.

        The marginal law of x_s is that of `step`. Both have shape ([n,] B, D).

        Args:
            noise: U[0, 1) in float64, (2, [n,] B, D); noise[1] decides x_0, noise[0] then x_s.
            log_p_0: as for `log_posterior`.
            x_t: shape (B, D).
            t: shape (B,).
            s: shape (B,).
        """
        x_0 = inverse_cdf(shared(log_p_0, noise[1]), noise[1])
        return x_0, self.bridge(noise[0], x_0, x_t, t, s)

    def active(self, x_t: Tensor) -> Tensor:
        """Return where x_t still leaves x_0 open, bool of shape (B, D)."""
        return torch.ones_like(x_t, dtype=torch.bool)

    def restrict(self, logits: Tensor) -> Tensor:
        """Make tokens that are never predicted impossible, in logits (..., S)."""
        return logits

    def with_evidence(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Add to logits (B, D, S) the evidence of x_t at each position, if the network omits it."""
        return logits

    def carry_over(self, log_p_0: Tensor, x_t: Tensor) -> Tensor:
        """Replace the prediction at inactive positions by the point mass at x_t."""
        return log_p_0


class MatrixProcess(Process):
    """A process given by its transition matrices; cost O(S^2) for each position.

    Subclasses with structure override `corrupt` and `log_posterior` by closed forms, and are tested
    against this class.
    """

    def corrupt(self, x_0: Tensor, t: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Process.corrupt`."""
        rows = self.transition(torch.zeros_like(t), t)[:, : self.num_tokens]
        index = x_0.unsqueeze(-1).expand(-1, -1, self.num_states)
        return sample_categorical(safe_log(rows.gather(1, index)), generator=generator)

    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Process.log_posterior`; q(x_s|x_t,x_0) = q(x_t|x_s) q(x_s|x_0) / q(x_t|x_0)."""
        zero = torch.zeros_like(t)
        q_t0 = self.transition(zero, t)[:, : self.num_tokens]
        q_s0 = self.transition(zero, s)[:, : self.num_tokens]
        likelihood = columns(q_t0, x_t)
        possible = likelihood > 0
        weight = torch.where(possible, log_p_0.double().exp() / likelihood.where(possible, 1.0), 0)
        p_s = (weight @ q_s0) * columns(self.transition(s, t), x_t)
        return safe_log(p_s / p_s.sum(-1, keepdim=True)).to(log_p_0.dtype)

    def bridge(self, noise: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Process.bridge`; O(S) for each position besides the matrices."""
        example = torch.arange(len(s), device=s.device).unsqueeze(-1)
        q_s0 = self.transition(torch.zeros_like(s), s)[example, x_0.expand(noise.shape)]
        p_s = q_s0 * columns(self.transition(s, t), x_t)
        return inverse_cdf(safe_log(p_s), noise).where(p_s.sum(-1) > 0, x_t)


def shared(log_p: Tensor, noise: Tensor) -> Tensor:
    """Give log_p (B, D, S) the leading axis of noise (n, B, D), of size 1, if that has one."""
    return log_p if log_p.ndim == noise.ndim + 1 else log_p.unsqueeze(0)


def columns(matrix: Tensor, x: Tensor) -> Tensor:
    """Pick matrix[b, :, x[b, d]]: (B, R, C) and (B, D) to (B, D, R)."""
    index = x.unsqueeze(1).expand(-1, matrix.shape[1], -1)
    return matrix.gather(2, index).transpose(1, 2)
