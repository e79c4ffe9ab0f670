r"""MaskGIT's confidence sampler as a process: it opens an exact number of masks, by rank.

Chang et al. 2022 (arXiv 2202.04200), section 3.2, "Iterative Decoding": draw a token for every
mask, score it by its log-probability plus Gumbel noise, open the best. The forward process is that
of masked diffusion. The step is coupled over positions: it has no posterior position by position.

Of the m masks at t the step to s leaves D \gamma_s, plus (m - D \gamma_t) \gamma_s / \gamma_t where
m is not the schedule's count (as after `corrupt`, whose count is random); \gamma = 1 - \alpha.
This is m \gamma_s / \gamma_t to within one, without accumulating rounding over a run from t = 1.
The official Di4C opens floor(D (1 - \gamma_s) - number of tokens already open) instead: none at all
in 8 % of the examples, since that number is random.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.absorbing import Absorbing
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.diffusion.process import shared
from di4c_plugin.diffusion.schedule import Arccos, Schedule
from di4c_plugin.errors import UserError


class Ordered(Absorbing):
    """Masked diffusion whose steps open an exact number of masks, the first ones of some order."""

    factorised = False

    def __init__(
        self, num_tokens: int, schedule: Schedule | None = None, *, mask: int | None = None
    ) -> None:
        super().__init__(num_tokens, schedule or Arccos(), mask=mask)

    def count(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return how many masks of x_t (B, D) open, (B,), int64: all at s = 0, else at least one.

        It is 0 only where there is no mask.
        """
        masked = self.active(x_t).sum(-1)
        at_t, at_s = 1 - self.schedule.alpha(t), 1 - self.schedule.alpha(s)
        ratio = torch.where(at_t > 0, at_s / at_t.where(at_t > 0, 1), 0)
        surplus = masked - (x_t.shape[-1] * at_t).round()
        remaining = (x_t.shape[-1] * at_s + surplus * ratio).round().long()
        opened = (masked - remaining.where(s > 0, 0)).clamp(min=1)
        return torch.minimum(opened, masked)

    @property
    def forward(self) -> dict[str, Any]:
        """See `Process.forward`: that of masked diffusion, whatever the order."""
        return super().config

    @abstractmethod
    def score(self, noise: Tensor, log_p: Tensor, temperature: Tensor) -> Tensor:
        """Return the scores of the order, ([n,] B, D), float64, finite: the largest open first.

        Args:
            noise: U[0, 1), ([n,] B, D).
            log_p: log-probabilities of the tokens drawn at every position, ([n,] B, D).
            temperature: (B,).
        """

    def temperature_at(self, t: Tensor, s: Tensor) -> Tensor:
        """Return the temperature of the step from t to s, (B,), float64; 0 without one."""
        return torch.zeros_like(t, dtype=torch.float64)

    def draw(
        self, noise: Tensor, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `Process.draw`: noise[0] decides the order, noise[1] the tokens.

        x_s is that of the ranked step, not of `bridge`, which follows masked diffusion's q, where
        positions open independently.
        """
        x_0 = inverse_cdf(shared(log_p_0, noise[1]), noise[1])
        count = self.count(x_t, t, s)
        return x_0, self._opened(noise[0], log_p_0, x_0, x_t, count, self.temperature_at(t, s))

    def open_by(
        self, noise: Tensor, log_p_0: Tensor, x_t: Tensor, count: Tensor, temperature: Tensor
    ) -> Tensor:
        """Open `count` (B,) masks of x_t (B, D) by the order at `temperature` (B,).

        Other arguments and the result as for `step_by`.
        """
        token = inverse_cdf(shared(log_p_0, noise[1]), noise[1])
        return self._opened(noise[0], log_p_0, token, x_t, count, temperature)

    def _opened(
        self,
        noise: Tensor,
        log_p_0: Tensor,
        token: Tensor,
        x_t: Tensor,
        count: Tensor,
        temperature: Tensor,
    ) -> Tensor:
        """Return x_t with `token` at the `count` masks that come first."""
        log_p = shared(log_p_0, noise)
        token_log_p = log_p.expand(*token.shape, -1).gather(-1, token.unsqueeze(-1)).squeeze(-1)
        score = self.score(noise, token_log_p.double(), temperature)
        order = score.where(self.active(x_t), -torch.inf).argsort(
            dim=-1, descending=True, stable=True
        )
        ranks = torch.arange(x_t.shape[-1], device=x_t.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(-1, order, ranks)
        return token.where(rank < count.unsqueeze(-1), x_t)

    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Refuse: the step does not factorise over positions.

        Raises:
            UserError: naming what to do instead.
        """
        raise UserError(
            f"the steps of process {self.config['name']!r} have no posterior position by position: "
            "use partial=false, or the process 'absorbing' with the same mask and schedule"
        )


class Confidence(Ordered):
    r"""MaskGIT's order: log p(token) + temperature * Gumbel noise, the most confident first.

    The temperature of a step is `temperature` * s / (1 - (t - s)): on an even grid of n steps that
    is the factor 1 - i / (n - 1) of Maskgit-pytorch and Halton-MaskGIT, from 1 to 0, and it is in
    [0, 1] for every t and s. Both hosts' samplers, and Chang et al., have `temperature` 4.5 by
    default. The schedule is by default "arccos", as in both hosts.

    Raises:
        UserError: if `temperature` is negative, or `mask` is no token.
    """

    def __init__(
        self,
        num_tokens: int,
        schedule: Schedule | None = None,
        *,
        mask: int | None = None,
        temperature: float = 4.5,
    ) -> None:
        super().__init__(num_tokens, schedule, mask=mask)
        if temperature < 0:
            raise UserError(f"temperature must be at least 0, not {temperature}")
        self.temperature = temperature

    @property
    def config(self) -> dict[str, Any]:
        """See `Process.config`."""
        return super().config | {"name": "confidence", "temperature": self.temperature}

    def temperature_at(self, t: Tensor, s: Tensor) -> Tensor:
        """See `Ordered.temperature_at`."""
        t, s = t.double(), s.double()
        # At one step everything opens, whatever the order.
        return self.temperature * s / (1 - (t - s)).where(s > 0, 1)

    def score(self, noise: Tensor, log_p: Tensor, temperature: Tensor) -> Tensor:
        """See `Ordered.score`."""
        # The smallest uniform number is 0: half a step above it keeps the noise finite.
        gumbel = -(-(noise.clamp(min=2**-54).log())).log()
        return log_p + temperature.unsqueeze(-1) * gumbel
