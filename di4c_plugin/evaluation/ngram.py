"""How likely samples are under an n-gram model of held-out text.

This needs no download: interpolated Witten-Bell estimates (Witten & Bell 1991; Chen & Goodman 1999,
section 2.4) counted on text that neither teacher nor student was trained on. Repetitive samples are
likely too: read the bits beside the entropy, which should stay near that of real text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from di4c_plugin.errors import UserError


@dataclass(frozen=True)
class Table:
    """Counts of sequences of one length, by their codes in ascending order."""

    codes: Tensor
    counts: Tensor

    def count(self, codes: Tensor) -> Tensor:
        """Return the counts of sequences by their codes, 0 for the unseen, in float64."""
        index = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[index] == codes, self.counts[index], 0).double()


@dataclass(frozen=True)
class Level:
    """The counts of one context length: of context and token, of the context, of its followers."""

    pairs: Table
    contexts: Table
    followers: Table


class NGram:
    """The distribution of token sequences that the n-grams of some held-out text suggest.

    With c(h w) the count of token w after context h, c(h) = sum_w c(h w), T(h) the number of
    different tokens seen after h, and h' the context without its first token,

        p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)),

    p(w | h') where h was never seen, and 1 / num_tokens below the empty context. Each row
    starts with order - 1 symbols of its own, so that what texts start with counts too.
    """

    def __init__(
        self, tokens: Tensor | Sequence[Tensor], *, num_tokens: int, order: int = 5
    ) -> None:
        """Count the n-grams of tokens (m, D), integers 0 ... num_tokens - 1; or of several such.

        Raises:
            UserError: for an order below 1 or so large that n-grams have no 64-bit code, for no
                tokens, or for tokens out of range.
        """
        if not 1 <= order < 64 or (num_tokens + 1) ** order > 2**63:
            raise UserError(f"n-grams of {num_tokens} tokens cannot be of order {order}")
        self.num_tokens, self.order = num_tokens, order
        groups = [tokens] if isinstance(tokens, Tensor) else tokens
        if not groups:
            raise UserError("an n-gram model needs tokens")
        checked = [self._checked(x) for x in groups]
        self.levels = [self._level(checked, length) for length in range(order)]

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Return log p(x_i | x_{<i}) in nats, float64, for every token of tokens (n, D).

        Raises:
            UserError: for tokens out of range.
        """
        x = self._checked(tokens)
        p = torch.full(x.shape, 1 / self.num_tokens, dtype=torch.float64)
        for length, level in enumerate(self.levels):
            pairs, contexts = self._codes(x, length)
            total, followers = level.contexts.count(contexts), level.followers.count(contexts)
            mixed = (level.pairs.count(pairs) + followers * p) / (total + followers)
            p = torch.where(total > 0, mixed, p)
        return p.log()

    def _checked(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2 or tokens.numel() == 0:
            raise UserError(f"an n-gram model needs tokens (n, D), not {tuple(tokens.shape)}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.num_tokens:
            raise UserError(f"tokens are 0 ... {self.num_tokens - 1}, not {low} ... {high}")
        return tokens.long().cpu()

    def _codes(self, x: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return codes (n, D) of each token with the `length` tokens before it, and of those."""
        base, width = self.num_tokens + 1, x.shape[1]
        # The start symbol is the number after the last token; nothing ever predicts it.
        padded = pad(x, (length, 0), value=self.num_tokens)
        contexts = torch.zeros_like(x)
        for offset in range(length):
            contexts = contexts * base + padded[:, offset : offset + width]
        return contexts * base + x, contexts

    def _level(self, groups: Sequence[Tensor], length: int) -> Level:
        parts = zip(*(self._codes(x, length) for x in groups), strict=True)
        pairs, contexts = (torch.cat([x.flatten() for x in part]) for part in parts)
        seen = Table(*pairs.unique(return_counts=True))
        before = seen.codes // (self.num_tokens + 1)
        return Level(seen, *(Table(*c.unique(return_counts=True)) for c in (contexts, before)))
