"""The random draws of D-MMD: times, clean tokens of the student, and the next state."""

from dataclasses import dataclass

import torch
from torch import Tensor

from di4c_plugin.algorithms.noising import low_discrepancy_times
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import inverse_cdf, uniform
from di4c_plugin.losses.positions import chunks
from di4c_plugin.networks.predict import ActivePositions
from di4c_plugin.networks.predictions import Prediction


@dataclass(frozen=True)
class Drawn:
    """The results of a pass of the student.

    Attributes:
        open_t: the open positions of z_t.
        p: the student's prediction there.
        x: clean tokens drawn from it (B, D); those that z_t shows are kept.
        z_s: (B, D), the input of auxiliary and teacher.
        s: its times (B,).
        cond: labels (B,), or None.
    """

    open_t: ActivePositions
    p: Prediction
    x: Tensor
    z_s: Tensor
    s: Tensor
    cond: Tensor | None


def draw_times(
    times: str, count: int, steps: int | None, min_time: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return t and s, (count,), float64, for an option `times` of `DMMD`."""
    s = low_discrepancy_times(count, min_time, generator)
    u = uniform((count,), generator=generator, device=generator.device)
    if times == "independent":
        return low_discrepancy_times(count, min_time, generator)[u.argsort()], s
    assert steps is not None, "only independent times do without"
    if times == "window":
        return (s + (1 - u) / steps).clamp(max=1), s
    share = (s - min_time) / (1 - min_time)
    t = ((share * steps).floor() + 1).clamp(max=steps) / steps
    return t, (t - (1 - u) / steps).clamp(min=min_time)


def clean_tokens(
    p: Prediction, open_t: ActivePositions, z_t: Tensor, chance: Tensor, max_bytes: int
) -> Tensor:
    """Return x ~ p, (B, D); tokens that z_t (B, D) shows are kept.

    Args:
        p: the prediction at the positions `open_t`.
        open_t: see `Drawn`.
        z_t: see `DMMD`.
        chance: U[0, 1) in float64, (B, D), which decides x.
        max_bytes: budget of a chunk of log p.
    """
    u = open_t.take(chance.unsqueeze(0)).squeeze(0)
    parts = chunks(len(u), 1, p.tokens, max_bytes)
    tokens = torch.cat([inverse_cdf(p.log_p(part)[0], u[part]) for part in parts])
    return z_t.flatten().index_copy(0, open_t.index, tokens).view_as(z_t)


def ranked_step(
    process: Process,
    p: Prediction,
    open_t: ActivePositions,
    z_t: Tensor,
    noise: Tensor,
    t: Tensor,
    s: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return x ~ p and z_s by the process's own step, whose order looks at all positions.

    It needs the full tensor of log p. Arguments as for `clean_tokens` and `Process.draw`.
    """
    log_p = p.log_p(slice(None))[0]
    full = log_p.new_zeros(z_t.numel(), p.tokens).index_copy(0, open_t.index, log_p)
    x, z_s = process.draw(noise, full.view(*z_t.shape, -1), z_t, t, s)
    return x.where(open_t.active, z_t), z_s
