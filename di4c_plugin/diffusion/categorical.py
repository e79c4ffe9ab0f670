"""Exact categorical draws: inverse CDF with float64 sums and an explicit generator.

float32 Gumbel noise truncates the tail and lowers the entropy of samples (Zheng et al. 2024,
"Masked Diffusion Models are Secretly Time-Agnostic Masked Models"); the inverse CDF in
float64 is exact to 2^-53.
"""

import random

import torch
from torch import Tensor

# Larger vocabularies are searched block by block, without a float64 copy of all of them.
BLOCK = 1024


def uniform(
    shape: tuple[int, ...] | torch.Size, *, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw U[0, 1) in float64 on `device`, which must be the generator's."""
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)


def host_uniform(generator: torch.Generator) -> float:
    """Draw U[0, 1) for a decision of the host, without waiting for the generator's device."""
    if generator.device.type == "cpu":
        return float(torch.rand((), generator=generator, dtype=torch.float64))
    key = f"{generator.initial_seed()} {generator.get_offset()}"
    # Moves the offset, so that the next number differs.
    torch.rand((), generator=generator, device=generator.device)
    return random.Random(key).random()


def sample_categorical(log_p: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw one index per distribution.

    Args:
        log_p: log-probabilities, shape (..., S); need not be normalised.
        generator: on the device of `log_p`.

    Returns:
        Indices, shape (...), int64. An index of probability zero is never drawn.
    """
    u = uniform(log_p.shape[:-1], generator=generator, device=log_p.device)
    return inverse_cdf(log_p, u)


def inverse_cdf(log_p: Tensor, u: Tensor) -> Tensor:
    """Return the index whose share of [0, 1) contains u, for u (...) of U[0, 1) in float64.

    `log_p` (..., S) as for `sample_categorical`; a first axis of size 1 serves all u along it.
    """
    if log_p.shape[-1] > BLOCK:
        return _two_levels(log_p, u)
    cdf = log_p.double().exp().cumsum(-1)
    # u < total strictly, and the first cdf value above u belongs to an entry of positive mass.
    return _search(cdf, u * cdf[..., -1])


def _two_levels(log_p: Tensor, u: Tensor) -> Tensor:
    """Find the block by the sums of blocks, then the index by the sums within."""
    blocks = -(-log_p.shape[-1] // BLOCK)
    p = log_p.new_zeros(*log_p.shape[:-1], blocks * BLOCK)
    torch.exp(log_p.detach(), out=p[..., : log_p.shape[-1]])
    p = p.unflatten(-1, (blocks, BLOCK))
    sums = p.sum(-1, dtype=torch.float64)
    cdf = sums.cumsum(-1)
    v = u * cdf[..., -1]
    block = _search(cdf, v)
    below = _pick(cdf - sums, block)
    rows = p.expand(*block.shape, blocks, BLOCK)
    index = block[..., None, None].expand(*block.shape, 1, BLOCK)
    within = rows.gather(-2, index).squeeze(-2).double().cumsum(-1)
    # Below the block's sum, but for rounding.
    rest = torch.minimum((v - below).clamp(min=0), within[..., -1] * (1 - 2**-52))
    return block * BLOCK + _search(within, rest)


def _search(cdf: Tensor, v: Tensor) -> Tensor:
    """Return the first index whose cdf (..., S) is above v (...)."""
    if cdf.shape[:-1] == v.shape:
        return torch.searchsorted(cdf, v.unsqueeze(-1), right=True).squeeze(-1)
    # One distribution serves the first axis of v.
    first = v.movedim(0, -1).contiguous()
    return torch.searchsorted(cdf.squeeze(0), first, right=True).movedim(-1, 0)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Return values[..., index] for values (..., S) and index (...), as `inverse_cdf` has them."""
    rows = values.expand(*index.shape, values.shape[-1])
    return rows.gather(-1, index.unsqueeze(-1)).squeeze(-1)
