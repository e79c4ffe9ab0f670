"""The teacher's step from x_t to x_u, at the positions that a loss is over."""

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.losses.positions import chunks
from di4c_plugin.networks.predict import AllPositions, Positions, States
from di4c_plugin.networks.predictions import Formed, Prediction


def take_step(
    process: Process,
    teacher: Prediction,
    states: States,
    positions: Positions,
    noise: Tensor,
    u: Tensor,
    max_bytes: int,
) -> Tensor:
    """Return N samples x_u (N, B, D) of the teacher's step from x_t at t to u (B,).

    Args:
        process: with `step_by`.
        teacher: its prediction at `positions`, for one lambda or for N.
        states: the teacher's, x (1, B, D).
        positions: at least all active positions; the others keep their tokens.
        noise: (process.noises, N, B, D).
        u: times (B,).
        max_bytes: budget for a chunk of hidden states.
    """
    n, (b, d) = noise.shape[1], states.x.shape[1:]
    if isinstance(teacher, Formed) and isinstance(positions, AllPositions):
        log_q = teacher.values.unflatten(1, (b, d))
        return _step(process, log_q, states.x[0], states.t, u, noise)
    x, t, late = (
        positions.take(value.expand(1, b, d)).squeeze(0)
        for value in (states.x, states.t.unsqueeze(-1), u.unsqueeze(-1))
    )
    chance = positions.take(noise.flatten(0, 1)).unflatten(0, noise.shape[:2])
    drawn = [
        _step(
            process,
            teacher.log_p(part).unsqueeze(2),
            x[part].unsqueeze(-1),
            t[part],
            late[part],
            chance[:, :, part].unsqueeze(-1),
        ).squeeze(-1)
        for part in chunks(len(x), max(n, teacher.count), teacher.tokens, max_bytes)
    ]
    x_u = states.x.expand(n, b, d).flatten(1)
    return x_u.index_copy(1, positions.index, torch.cat(drawn, 1)).unflatten(1, (b, d))


def _step(
    process: Process, log_q: Tensor, x_t: Tensor, t: Tensor, u: Tensor, noise: Tensor
) -> Tensor:
    """Return x_u (N, B, D) from log_q (1 or N, B, D, S) and noise (noises, N, B, D)."""
    n = noise.shape[1]
    if len(log_q) == 1:
        return process.step_by(noise, log_q[0], x_t, t, u)
    x_t, t, u = (value.repeat(n, *[1] * (value.ndim - 1)) for value in (x_t, t, u))
    x_u = process.step_by(noise.flatten(1, 2), log_q.flatten(0, 1), x_t, t, u)
    return x_u.unflatten(0, (n, -1))
