r"""Di4C's data term by an encoder q(lambda | x_0, x_t), in place of N draws from the prior (ours).

    log p(x_0 | x_t) >= E_{lambda_k ~ q} log (1/K) \sum_k w_k \prod_d p^d(x_0^d | x_t; lambda_k),
    w_k = p(lambda_k) / q(lambda_k | x_0, x_t),

Student and encoder are trained together on this bound. N draws from the prior gain at most log N
nats on all positions; this gains what the posterior is worth, whatever the length. With K = 1 the
mean of log w is taken in closed form, -KL(q || p). Where x_t shows everything both sides are 0.
At first log w has a smaller weight: otherwise q would collapse to the prior early in training.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Role
from di4c_plugin.diffusion import Process
from di4c_plugin.losses.chunk import pick
from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.losses.positions import position_sums
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.networks.encoder import encode, new_encoder
from di4c_plugin.networks.predict import ActivePositions, States, predict


@dataclass(frozen=True)
class DataBound:
    """Bounds on log p(x_0 | x_t), and KL(q || p): the means over x_0 for each state, (B,), nats."""

    value: Tensor
    divergence: Tensor


def encoder_role(lr: float, hidden_size: int, num_blocks: int) -> Role:
    """Return the role of an encoder of these sizes, with a factor on the learning rate."""
    make = partial(new_encoder, hidden_size=hidden_size, num_blocks=num_blocks)
    return Role(lr=lr, make=make)


def warmed(progress: float, warmup: float) -> float:
    """Return the `strength` at a share `progress` of the run: linear, 1 from `warmup` on."""
    return 1.0 if progress >= warmup else progress / warmup


def data_bound(
    student: Denoiser,
    encoder: Denoiser,
    x_0: Tensor,
    states: States,
    process: Process,
    *,
    count: int,
    strength: float = 1.0,
    generator: torch.Generator,
    hidden: bool,
    max_bytes: int,
) -> DataBound:
    """Return the bound for K = `count` lambda, differentiable in student and encoder.

    Args:
        student: a mixture.
        encoder: see `di4c_plugin.networks.encoder`.
        x_0: data that each state may come from, (J, B, D).
        states: the noisy states, x (1, B, D); their lambda are not used.
        process: of both.
        count: K.
        strength: factor on log w; only at 1 is this a bound.
        generator: of the draws.
        hidden: whether the student exposes hidden states, for chunks of log p.
        max_bytes: budget of a chunk.
    """
    copies, batch = x_0.shape[:2]
    clean, noisy = x_0.flatten(0, 1), states.x[0].repeat(copies, 1)
    t = states.t.repeat(copies)
    cond = None if states.cond is None else states.cond.repeat(copies)
    mixture: Any = student
    q = encode(encoder, clean, noisy, t, mixture.latent_shape)
    noise = torch.randn(
        (count, *q.mean.shape), generator=generator, device=t.device, dtype=q.mean.dtype
    )
    latent, log_weight = q.at(noise)
    inputs = States(noisy.unsqueeze(0), t, cond, latent)
    joint = joint_log_prob(student, clean, inputs, process, hidden=hidden, max_bytes=max_bytes)
    divergence = q.divergence()
    bound = (
        joint[0] - strength * divergence
        if count == 1
        else log_mean_exp(joint + strength * log_weight)
    )
    value, kl = (v.unflatten(0, (copies, batch)).mean(0) for v in (bound, divergence))
    return DataBound(value, kl.detach())


def joint_log_prob(
    student: Denoiser,
    x_0: Tensor,
    states: States,
    process: Process,
    *,
    hidden: bool,
    max_bytes: int,
) -> Tensor:
    r"""Return \sum_d log p^d(x_0^d | x_t; lambda_k) over open positions, (K, R), float64.

    `x_0` is (R, D), `states` have K lambda for each of R states; the rest as for `data_bound`.
    """
    rows, length = x_0.shape
    positions = ActivePositions(process.active(states.x[0]))
    prediction = predict(student, states, positions, process, hidden=hidden)
    tokens = positions.take(x_0.unsqueeze(0))

    def values(part: slice, log_p: Tensor) -> list[Tensor]:
        return [pick(log_p, tokens[:, part]).squeeze(1)]

    (ell,) = position_sums(values, prediction, implementation="auto", max_bytes=max_bytes)
    sums = torch.zeros(len(ell), rows, dtype=torch.float64, device=ell.device)
    return sums.index_add(-1, positions.index // length, ell.double())
