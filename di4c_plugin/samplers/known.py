r"""Sampling with some tokens given: prompts, infilling, semi-autoregressive generation.

p(x_0 | x_0^known) is sampled by fixing the prediction at the known positions and showing the
network the clean tokens there, in place of the noisy ones. For masked diffusion this is exact
conditioning of the learnt model (the network is trained on partly revealed sequences); for
uniform-state diffusion it is the usual replacement.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.diffusion.absorbing import point_mass
from di4c_plugin.errors import UserError, refusing
from di4c_plugin.networks.denoiser import Denoiser

Tokens = Tensor | Sequence[Any]


def known_tokens(
    prefix: Tokens | None,
    known: tuple[Tokens, Tokens] | None,
    n: int,
    positions: int,
    process: Process,
) -> tuple[Tensor, Tensor] | None:
    """Return tokens x_0 and where they are known, both (1 or n, D); None if nothing is given.

    Args:
        prefix: tokens (P,) or (n, P) that samples start with.
        known: tokens and mask, both (D,) or (n, D).
        n: number of samples.
        positions: D.
        process: defines the valid tokens.

    Raises:
        UserError: if both are given, shapes do not fit, or tokens are invalid.
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


def prompted(
    prompts: Sequence[Sequence[int]], new_tokens: int | None, n: int, network: Any, process: Process
) -> tuple[Tensor, Tensor]:
    """Return tokens and where they are known, (n, D'): prompts, then masks, then padding.

    Args:
        prompts: ids, n of them or one for all.
        new_tokens: number drawn for each; None: to the end of the longest sequence.
        n: number of samples.
        network: sizes; their `pad` fills the shorter sequences.
        process: defines the valid tokens.

    Raises:
        UserError: for another number of prompts, for prompts that are too long or have invalid
            tokens, and for several lengths where the network knows no padding.
    """
    if len(prompts) not in (1, n):
        raise UserError(f"{n} samples take 1 or {n} prompts, not {len(prompts)}")
    rows = [_tokens(prompt) if len(prompt) else torch.empty(0).long() for prompt in prompts]
    longest = max(len(row) for row in rows)
    positions, pad = network.positions, getattr(network, "pad", None)
    new = positions - longest if new_tokens is None else new_tokens
    if new < 1 or longest + new > positions:
        raise UserError(
            f"a prompt of {longest} tokens and {new} new ones do not fit {positions} positions"
        )
    if longest + new < positions and not getattr(network, "variable", False):
        raise UserError(f"this network has {positions} positions: leave out new_tokens")
    if pad is None and any(len(row) != longest for row in rows):
        raise UserError("prompts of several lengths need padding: say host.pad=")
    x_0 = torch.full((len(rows), longest + new), pad or 0)
    known = torch.ones(x_0.shape, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        _check_tokens(tokens, process)
        x_0[row, : len(tokens)] = tokens
        known[row, len(tokens) : len(tokens) + new] = False
    return x_0, known


def _spread(tokens: Tokens, mask: Tokens, positions: int) -> tuple[Tensor, Tensor]:
    """Return tokens and mask with equally many rows; a single row is repeated."""
    x_0, where = _tokens(tokens), _tensor(mask)
    if where.ndim not in (1, 2) or not bool(((where == 0) | (where == 1)).all()):
        raise UserError(f"the mask of known tokens must be bools (D,) or (n, D), not {mask!r:.60}")
    where = where.bool()
    x_0, where = x_0.reshape(-1, x_0.shape[-1]), where.reshape(-1, where.shape[-1])
    if x_0.shape[-1] != positions or where.shape[-1] != positions:
        raise UserError(f"known tokens and their mask must have {positions} positions each")
    rows = max(len(x_0), len(where))
    if {len(x_0), len(where)} - {1, rows}:
        raise UserError(f"{len(x_0)} rows of known tokens and {len(where)} rows of their mask")
    return x_0.expand(rows, -1), where.expand(rows, -1)


def _tokens(values: Tokens) -> Tensor:
    tokens = _tensor(values)
    if tokens.ndim not in (1, 2) or not is_whole(tokens) or not tokens.numel():
        raise UserError(f"given tokens must be whole numbers (P,) or (n, P), not {values!r:.60}")
    return tokens.long()


def _tensor(given: Tokens) -> Tensor:
    if _is_text(given):
        raise UserError(
            f"token ids are wanted, not text: {given!r:.60} goes through a tokenizer first"
        )
    with refusing(f"given tokens must be numbers in rows of one length, not {given!r:.60}"):
        tensor = torch.as_tensor(given)
        if not is_dense(tensor):
            raise TypeError("it is sparse, or has no values")
        return tensor


def is_dense(values: Any) -> bool:
    """Return whether something is a tensor of plain values: not sparse, quantised or "meta"."""
    is_tensor = isinstance(values, Tensor) and values.layout == torch.strided
    return is_tensor and not (values.is_meta or values.is_quantized)


def is_whole(values: Any) -> bool:
    """Return whether something is a dense tensor of whole numbers; bools are none."""
    inexact = (torch.bool, torch.complex32, torch.complex64, torch.complex128)
    return is_dense(values) and not (values.is_floating_point() or values.dtype in inexact)


def _is_text(given: Any) -> bool:
    """Return whether something is text, or rows of text."""
    for _ in range(2):
        given = given[0] if isinstance(given, list | tuple) and given else given
    return isinstance(given, str | bytes)


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
    """Return the denoiser with the given tokens of these rows (or of the only row) known."""
    if given is None:
        return denoiser
    x_0, where = (x if len(x) == 1 else x[rows] for x in given)
    return Known(denoiser, x_0.to(device), where.to(device))


def without_masks(
    x: Tensor, given: tuple[Tensor, Tensor] | None, rows: slice, process: Process
) -> Tensor:
    """Return states of masked diffusion (B, D) with the given tokens in place of their masks.

    So a sampler that counts masks counts only those that it must open.
    """
    if given is None or not isinstance(process, Absorbing):
        return x
    x_0, where = (v.expand(len(x), -1) if len(v) == 1 else v[rows] for v in given)
    return torch.where(where.to(x.device), x_0.to(x.device), x)


class Known(nn.Module):
    """A denoiser that knows the tokens x_0 (B or 1, D) where `known` (B or 1, D) is true.

    Raises:
        UserError: if the shapes differ, or nothing is left to sample.
    """

    def __init__(self, denoiser: Denoiser, x_0: Tensor, known: Tensor) -> None:
        super().__init__()
        if x_0.shape != known.shape or x_0.ndim != 2:
            raise UserError(
                f"known tokens and positions must both be (B, D), not {tuple(x_0.shape)} and "
                f"{tuple(known.shape)}"
            )
        if bool(known.all()):
            raise UserError("every token is given: nothing is left to sample")
        self.denoiser, self.x_0, self.known = denoiser, x_0, known

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """As of the denoiser."""
        return getattr(self.denoiser, "latent_shape", None)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        x_0 = self.x_0.to(x_t.device).expand_as(x_t)
        known = self.known.to(x_t.device).expand_as(x_t)
        log_p_0 = self.denoiser(torch.where(known, x_0, x_t), t, cond=cond, latent=latent)
        return torch.where(known.unsqueeze(-1), point_mass(x_0, log_p_0), log_p_0)


def known_prefix(prefix: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Return `x_0` and `known` of `Known` for a prefix (P,) or (B, P) of sequences of D positions.

    Raises:
        UserError: if the prefix is not shorter than the sequence.
    """
    prefix = torch.atleast_2d(prefix)
    if not 0 < prefix.shape[1] < positions:
        raise UserError(f"a prefix of {prefix.shape[1]} tokens does not fit {positions} positions")
    x_0 = torch.zeros(len(prefix), positions, dtype=torch.int64, device=prefix.device)
    x_0[:, : prefix.shape[1]] = prefix
    known = torch.arange(positions, device=prefix.device) < prefix.shape[1]
    return x_0, known.expand_as(x_0)
