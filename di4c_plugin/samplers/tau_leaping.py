r"""Tau-leaping with correctors for ordinal states: tauLDR's samplers.

Campbell et al. 2022 (arXiv 2205.14987), sections 4.3 and 4.4. The reverse of a Markov chain with
rates R_t is one with rates

    \hat R_t(x, y) = R_t(y, x) \sum_{x_0} q_{t|0}(y | x_0) / q_{t|0}(x | x_0) p_{0|t}(x_0 | x_t)

at each position. A leap holds them for a while, draws how often each jump happens (Poisson), adds
all jumps up, and clamps the sum to the states there are. R_t + \hat R_t leaves q_t as it is: the
corrector.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.process import columns
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.base import Callback, walk
from di4c_plugin.samplers.grids import ending_at
from di4c_plugin.samplers.last_step import likeliest
from di4c_plugin.samplers.sampler import sampler

# States that q_{t|0} excludes but a network does not would have infinite rates. tauLDR adds an
# eps_ratio of this size to all ratios; a floor keeps the others exact.
RATIO_FLOOR = 1e-9


@runtime_checkable
class OrdinalRates(Protocol):
    r"""A process on ordered states with rates R_t = \beta(t) R."""

    rate: Tensor

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """See `Process.transition`."""
        ...

    def elapsed(self, t: Tensor) -> Tensor:
        r"""Return \int_0^t \beta."""
        ...


def leaping(times: Tensor, positions: int, process: Process, *, min_time: float = 0.01) -> Tensor:
    """Return `ending_at`, of a grid that ends at 0."""
    return ending_at(times, positions, process, min_time=min_time if times[-1] == 0 else 0)


@sampler(grid=leaping)
def tau_leaping(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor,
    *,
    process: Process,
    generator: torch.Generator,
    cond: Tensor | None = None,
    last: str = "argmax",
    last_latents: int = 1,
    corrector_steps: int = 0,
    corrector_size: float = 1.5,
    corrector_entry: float = 0.1,
    callback: Callback | None = None,
) -> Tensor:
    r"""Carry x by leaps; a step to 0 is no leap. Arguments and result as of `Sampler.__call__`.

    Options:
        process: `DiscretisedGaussian`, or another with `OrdinalRates`.
        last: the step to 0: the "argmax" of p_{0|t}, as tauLDR, or a "draw" from it.
        last_latents: number of lambdas of which the step to 0 keeps the likeliest x_0.
        corrector_steps: corrector leaps, with one network call each, after each leap.
        corrector_size: their length, in lengths of the leap.
        corrector_entry: correctors follow the leaps that start at or below this time.
        callback: called after each step, its correctors included.

    Raises:
        UserError: for a process without rates, values out of range, and unknown choices.
    """
    rates = _with_rates(process)
    if corrector_steps < 0 or corrector_size <= 0:
        raise UserError(
            f"corrector_steps must be at least 0 and corrector_size positive, "
            f"not {corrector_steps} and {corrector_size}"
        )

    def rule(index: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if times[index + 1] == 0:
            return likeliest(denoiser, x, t, last_latents, generator, cond, last)
        length = rates.elapsed(t) - rates.elapsed(s)
        backwards = reverse_rates(rates, denoiser(x, t, cond=cond), x, t)
        x = leap(x, length, backwards, generator)
        for _ in range(corrector_steps if times[index] <= corrector_entry else 0):
            backwards = reverse_rates(rates, denoiser(x, s, cond=cond), x, s)
            total = backwards + forward_rates(rates, x)
            x = leap(x, corrector_size * length, total, generator)
        return x

    return walk(rule, x, times, callback)


def reverse_rates(process: OrdinalRates, log_p_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    r"""Return \hat R_t(x, y) / \beta(t) for every y, (B, D, S), float64; 0 at y = x.

    Args:
        process: gives R and q.
        log_p_0: log p_{0|t}, (B, D, S).
        x: states x_t, (B, D).
        t: times (B,).
    """
    q = process.transition(torch.zeros_like(t), t)
    weight = log_p_0.double().exp() / columns(q, x).clamp(min=RATIO_FLOOR)
    backwards = columns(process.rate.to(x.device).expand(len(x), -1, -1), x)
    return (backwards * (weight @ q)).scatter(-1, x.unsqueeze(-1), 0)


def forward_rates(process: OrdinalRates, x: Tensor) -> Tensor:
    r"""Return R_t(x, y) / \beta(t) for every y, (B, D, S), float64; 0 at y = x."""
    return process.rate.to(x.device)[x].scatter(-1, x.unsqueeze(-1), 0)


def leap(x: Tensor, length: Tensor, rates: Tensor, generator: torch.Generator) -> Tensor:
    """Return x after Poisson numbers of all jumps at `rates` (B, D, S) for `length` (B,)."""
    jumps = torch.poisson(rates * length.view(-1, 1, 1), generator=generator)
    target = torch.arange(rates.shape[-1], device=x.device, dtype=jumps.dtype)
    moved = x + (jumps * (target - x.unsqueeze(-1))).sum(-1)
    return moved.clamp(0, rates.shape[-1] - 1).long()


def _with_rates(process: Process) -> OrdinalRates:
    if not isinstance(process, OrdinalRates):
        name = process.config["name"]
        raise UserError(f"tau_leaping is for a process with rates, such as gaussian, not {name!r}")
    return process
