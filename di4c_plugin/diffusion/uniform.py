r"""Uniform-state diffusion: a token is kept with probability \alpha_t, else redrawn uniformly.

Duo (Sahoo et al. 2025); D3PM (Austin et al. 2021), uniform transition matrices:
q(x_t | x_0) = \alpha_t \delta_{x_0} + (1 - \alpha_t) / S.
"""

from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.absorbing import schedule_config, survival
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.diffusion.process import LOG_ZERO, Process, per_position, safe_log
from di4c_plugin.diffusion.schedule import LogLinear, Schedule


class Uniform(Process):
    r"""Uniform-state diffusion on S tokens, in closed form: O(S) a position.

    With `leave_one_out`, networks predict \pi^d = p(x_0^d | x_t without x_t^d), as Duo's "mean"
    parameterisation does: its posterior is q(x_s | x_t, x_0) with \pi in the place of x_0 in
    numerator and denominator, that is q(x_t | x_s) (\pi Q_s)(x_s) / (\pi Q_t)(x_t), which is exact
    for this \pi and not for p(x_0^d | x_t). The latter is \pi times q(x_t^d | x_0^d), normalised.
    """

    def __init__(
        self,
        num_tokens: int,
        schedule: Schedule | None = None,
        *,
        leave_one_out: bool = False,
    ) -> None:
        super().__init__(num_tokens, num_tokens)
        self.schedule, self.leave_one_out = schedule or LogLinear(), leave_one_out

    @property
    def config(self) -> dict[str, Any]:
        """See `Process.config`."""
        values = {"name": "uniform", "num_tokens": self.num_tokens}
        network = {"leave_one_out": True} if self.leave_one_out else {}
        return values | network | schedule_config(self.schedule)

    def prior(
        self, shape: tuple[int, int], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """See `Process.prior`."""
        return torch.randint(self.num_tokens, shape, generator=generator, device=device)

    def corrupt(self, x_0: Tensor, t: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Process.corrupt`."""
        u = uniform(x_0.shape, generator=generator, device=x_0.device)
        noise = torch.randint(
            self.num_tokens, x_0.shape, generator=generator, device=x_0.device, dtype=x_0.dtype
        )
        return torch.where(u < per_position(self.schedule.alpha(t)), x_0, noise)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """See `Process.transition`."""
        keep = survival(self.schedule, s, t).view(-1, 1, 1)
        identity = torch.eye(self.num_tokens, dtype=torch.float64, device=t.device)
        return keep * identity + (1 - keep) / self.num_tokens

    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r"""See `Process.log_posterior`.

        With w(x_0) = p_{0|t}(x_0) / q(x_t | x_0):
        p(x_s | x_t) = q(x_t | x_s) (\alpha_s w(x_s) + (1 - \alpha_s) / S \sum_{x_0} w(x_0)).
        """
        dtype = log_p_0.dtype
        alpha_s = self.schedule.alpha(s).view(-1, 1, 1)
        log_likelihood = self._log_likelihood(x_t, self.schedule.alpha(t), dtype)
        log_w = (log_p_0 - log_likelihood).where(log_likelihood > LOG_ZERO, LOG_ZERO)
        kept = safe_log(alpha_s).to(dtype) + log_w
        noise = safe_log((1 - alpha_s) / self.num_tokens).to(dtype)
        mixed = torch.logaddexp(kept, noise + log_w.logsumexp(-1, keepdim=True))
        log_p_s = self._log_likelihood(x_t, survival(self.schedule, s, t), dtype) + mixed
        # Already normalised, but for an x_0 that alpha_t = 1 excludes and the prediction does not.
        return log_p_s.log_softmax(-1)

    def bridge(self, noise: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r"""See `Process.bridge`; x_s is x_t, x_0 or any token, without a tensor of (B, D, S).

        With a = \alpha_t / \alpha_s and b = \alpha_s, q(x_s | x_t, x_0) is proportional to
        (a 1[x_s = x_t] + (1 - a) / S) (b 1[x_s = x_0] + (1 - b) / S); its four products, times S,
        are stacked in [0, total), where the noise falls on one of them.
        """
        a = per_position(survival(self.schedule, s, t))
        b = per_position(self.schedule.alpha(s))
        is_x_t = a * b * self.num_tokens * (x_t == x_0) + a * (1 - b)
        known = is_x_t + (1 - a) * b
        total = known + (1 - a) * (1 - b)
        point = noise * total
        # The remaining interval is cut into S equal parts.
        share = (point - known) / (total - known).where(total > known, 1)
        other = (share * self.num_tokens).long().clamp(0, self.num_tokens - 1)
        x_s = torch.where(point < known, x_0, other)
        return x_s.where((point >= is_x_t) & (total > 0), x_t)

    def with_evidence(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """See `Process.with_evidence`."""
        if not self.leave_one_out:
            return logits
        # q(x_t | x_0) is the same for every x_0 but x_t itself, and only its ratio matters.
        alpha = self.schedule.alpha(t)
        ratio = 1 + self.num_tokens * alpha / (1 - alpha)
        gain = per_position(ratio.log().clamp(max=-LOG_ZERO)).expand(x_t.shape).to(logits.dtype)
        return logits.scatter_add(-1, x_t.unsqueeze(-1), gain.unsqueeze(-1))

    def _log_likelihood(self, x_t: Tensor, keep: Tensor, dtype: torch.dtype) -> Tensor:
        """Return log q(x_t | x) as a function of the earlier state x, shape (B, D, S)."""
        same = x_t.unsqueeze(-1) == torch.arange(self.num_tokens, device=x_t.device)
        keep = keep.view(-1, 1, 1)
        return safe_log(keep * same + (1 - keep) / self.num_tokens).to(dtype)
