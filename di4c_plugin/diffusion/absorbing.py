r"""Absorbing (masked) diffusion: a token is kept with probability \alpha_t, else it is the mask.

MDLM (Sahoo et al. 2024), its forward process:
q(x_t | x_0) = \alpha_t \delta_{x_0} + (1 - \alpha_t) \delta_mask.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.diffusion.process import LOG_ZERO, Process, per_position, safe_log
from di4c_plugin.diffusion.schedule import SCHEDULES, LogLinear, Schedule
from di4c_plugin.errors import UserError


class Absorbing(Process):
    """Masked diffusion on S tokens; the mask is state S, or one of the tokens.

    MDLM, SDTT and Duo count the mask as a token that is never predicted: give its index as `mask`.

    Args:
        num_tokens: S.
        schedule: None: log-linear.
        mask: None: the state S.
        barred: further tokens that are never predicted; they may be given.

    Raises:
        UserError: if `mask` or one of `barred` is no token.
    """

    noises = 2

    def __init__(
        self,
        num_tokens: int,
        schedule: Schedule | None = None,
        *,
        mask: int | None = None,
        barred: Sequence[int] = (),
    ) -> None:
        self.mask_is_token = mask is not None
        self.mask = num_tokens if mask is None else mask
        if mask is not None and not 0 <= mask < num_tokens:
            raise UserError(f"mask must be one of the tokens 0 ... {num_tokens - 1}, not {mask}")
        if not all(type(token) is int and 0 <= token < num_tokens for token in barred):
            raise UserError(f"barred must be of the tokens 0 ... {num_tokens - 1}")
        super().__init__(num_tokens, num_tokens if self.mask_is_token else num_tokens + 1)
        self.schedule = schedule or LogLinear()
        self.barred = tuple(barred)
        self._impossible: dict[torch.device, Tensor] = {}

    @property
    def config(self) -> dict[str, Any]:
        """See `Process.config`."""
        values = {"name": "absorbing", "num_tokens": self.num_tokens}
        mask = {"mask": self.mask} if self.mask_is_token else {}
        barred = {"barred": list(self.barred)} if self.barred else {}
        return values | mask | barred | schedule_config(self.schedule)

    def prior(
        self, shape: tuple[int, int], *, generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """See `Process.prior`; nothing is random here."""
        return torch.full(shape, self.mask, device=device)

    def corrupt(self, x_0: Tensor, t: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Process.corrupt`."""
        u = uniform(x_0.shape, generator=generator, device=x_0.device)
        return x_0.where(u < per_position(self.schedule.alpha(t)), self.mask)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        r"""See `Process.transition`: a token survives with \alpha_t / \alpha_s."""
        keep = survival(self.schedule, s, t).view(-1, 1, 1)
        identity = torch.eye(self.num_states, dtype=torch.float64, device=t.device)
        return keep * identity + (1 - keep) * identity[self.mask]

    def reveal_probability(self, t: Tensor, s: Tensor) -> Tensor:
        r"""Return (\alpha_s - \alpha_t) / (1 - \alpha_t), the chance that a mask opens."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        # Where alpha_t rounds to 1 there is no mask; were there one, it would open.
        return torch.where(
            alpha_t < 1, (alpha_s - alpha_t) / (1 - alpha_t).where(alpha_t < 1, 1), 1
        )

    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Process.log_posterior`; MDLM's reverse posterior."""
        reveal = self.reveal_probability(t, s).view(-1, 1, 1)
        stay = safe_log(1 - reveal).expand(*x_t.shape, 1).to(log_p_0.dtype)
        opened = log_p_0 + safe_log(reveal).to(log_p_0.dtype)
        if self.mask_is_token:
            index = torch.full_like(stay, self.mask, dtype=torch.int64)
            opened = opened.scatter(-1, index, stay)
        else:
            opened = torch.cat([opened, stay], -1)
        return torch.where(self.active(x_t).unsqueeze(-1), opened, point_mass(x_t, opened))

    def step_by(self, noise: Tensor, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Process.step_by` and `Process.draw`, whose noise this is."""
        return self.draw(noise, log_p_0, x_t, t, s)[1]

    def bridge(self, noise: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """See `Process.bridge`: a mask opens, and then it is x_0, or it stays."""
        opens = self.active(x_t) & (noise < per_position(self.reveal_probability(t, s)))
        return torch.where(opens, x_0, x_t)

    def active(self, x_t: Tensor) -> Tensor:
        """See `Process.active`: the masked positions."""
        return x_t == self.mask

    def restrict(self, logits: Tensor) -> Tensor:
        """See `Process.restrict`: the mask is never predicted (zero masking in MDLM's SUBS)."""
        if self.barred:
            if logits.device not in self._impossible:  # once: it waits for the device
                barred = torch.tensor(self.barred, device=logits.device)
                self._impossible[logits.device] = barred
            logits = logits.index_fill(-1, self._impossible[logits.device], LOG_ZERO)
        if not self.mask_is_token:
            return logits
        # `full`, unlike `tensor`, does not wait for the device.
        index = torch.full((1,), self.mask, device=logits.device)
        return logits.index_fill(-1, index, LOG_ZERO)

    def carry_over(self, log_p_0: Tensor, x_t: Tensor) -> Tensor:
        """See `Process.carry_over`: revealed tokens are certain (carry-over in MDLM's SUBS)."""
        active = self.active(x_t).unsqueeze(-1)
        # Two passes over S: vocabularies are large. A masked position gets its own value back.
        current = x_t.unsqueeze(-1).clamp(max=log_p_0.shape[-1] - 1)
        certain = log_p_0.gather(-1, current).where(active, 0)
        return log_p_0.where(active, LOG_ZERO).scatter_(-1, current, certain)


def point_mass(x: Tensor, like: Tensor) -> Tensor:
    """Return log-probabilities of the point mass at x (B, D) over the last axis of `like`.

    An x beyond that axis (a mask, over data tokens) gives LOG_ZERO everywhere; callers replace it.
    """
    hot = x.unsqueeze(-1) == torch.arange(like.shape[-1], device=x.device)
    return torch.zeros_like(like).where(hot, LOG_ZERO)


def survival(schedule: Schedule, s: Tensor, t: Tensor) -> Tensor:
    r"""Return \alpha_t / \alpha_s for s <= t, and 0 where \alpha_s is already 0."""
    alpha_s = schedule.alpha(s)
    return torch.where(alpha_s > 0, schedule.alpha(t) / alpha_s.where(alpha_s > 0, 1.0), 0.0)


def schedule_config(schedule: Schedule) -> dict[str, Any]:
    """Return the name and the parameters of a known schedule as plain values."""
    name = next(name for name, kind in SCHEDULES.items() if isinstance(schedule, kind))
    return {"schedule": name} | asdict(schedule)  # type: ignore[call-overload]


def masked_diffusion(process: Process, what: str) -> Absorbing:
    """Return the process as masked diffusion; raises UserError, of `what`, for another one."""
    if not isinstance(process, Absorbing):
        name = process.config["name"]
        raise UserError(f"{what} for masked diffusion, not for the process {name!r}")
    return process
