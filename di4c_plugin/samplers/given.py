"""Given tokens as a caller writes them, checked, and cut into batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers.known import Known, known_prefix

Given = Tensor | Sequence[Any]


def given_tokens(
    prefix: Given | None,
    known: tuple[Given, Given] | None,
    n: int,
    positions: int,
    process: Process,
) -> tuple[Tensor, Tensor] | None:
    """Return tokens x_0 and where they are known, both (1 or n, D); None if nothing is given.

    Args:
        prefix: tokens (P,) or (n, P) that samples start with.
        known: tokens and mask, both (D,) or (n, D).
        n: how many samples are asked for.
        positions: D.
        process: says which tokens there are.

    Raises:
        UserError: if both are given, shapes do not fit, or what is given are no tokens.
    """
    if prefix is not None and known is not None:
        raise UserError("prefix and known exclude each other: known can hold the prefix")
    if prefix is not None:
        x_0, where = known_prefix(_tokens(prefix), positions)
    elif known is not None:
        x_0, where = _spread(*known, positions)
    else:
        return None
    if len(x_0) not in (1, n):
        raise UserError(f"{n} samples take 1 or {n} rows of given tokens, not {len(x_0)}")
    _check_tokens(x_0[where], process)
    return x_0, where


def _spread(tokens: Given, mask: Given, positions: int) -> tuple[Tensor, Tensor]:
    """Return tokens and mask with as many rows, the only row of one repeated for the other."""
    x_0, where = _tokens(tokens), _tensor(mask).bool()
    if where.ndim not in (1, 2):
        raise UserError(f"the mask of known tokens must be (D,) or (n, D), not {mask!r:.60}")
    x_0, where = x_0.reshape(-1, x_0.shape[-1]), where.reshape(-1, where.shape[-1])
    if x_0.shape[-1] != positions or where.shape[-1] != positions:
        raise UserError(f"known tokens and their mask must have {positions} positions each")
    rows = max(len(x_0), len(where))
    if {len(x_0), len(where)} - {1, rows}:
        raise UserError(f"{len(x_0)} rows of known tokens and {len(where)} rows of their mask")
    return x_0.expand(rows, -1), where.expand(rows, -1)


def _tokens(given: Given) -> Tensor:
    tokens = _tensor(given)
    if tokens.ndim not in (1, 2) or tokens.is_floating_point() or not tokens.numel():
        raise UserError(f"given tokens must be whole numbers (P,) or (n, P), not {given!r:.60}")
    return tokens.long()


def _tensor(given: Given) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError) as error:
        raise UserError(f"given tokens must have rows of one length, not {given!r:.60}") from error


def _check_tokens(tokens: Tensor, process: Process) -> None:
    mask = getattr(process, "mask", None)
    wrong = (tokens < 0) | (tokens >= process.num_tokens)
    wrong = wrong if mask is None else wrong | (tokens == mask)
    if wrong.any():
        raise UserError(
            f"{int(tokens[wrong][0])} is no token of this model: 0 ... {process.num_tokens - 1}"
            + ("" if mask is None else f" without the mask {mask}")
        )


def conditioned(
    denoiser: Denoiser, given: tuple[Tensor, Tensor] | None, rows: slice, device: torch.device
) -> Denoiser:
    """Return the denoiser knowing the given tokens of these rows (or of the only one)."""
    if given is None:
        return denoiser
    x_0, where = (x if len(x) == 1 else x[rows] for x in given)
    return Known(denoiser, x_0.to(device), where.to(device))
