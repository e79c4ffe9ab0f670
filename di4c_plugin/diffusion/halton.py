"""Halton-MaskGIT's order as a process: masks open along a sequence that spreads over the grid.

Besnier et al. 2025, "Halton Scheduler for Masked Generative Image Transformer" (arXiv 2503.17076):
neighbouring tokens depend on each other most, so those that open together should be far apart.
Counts are exact as in `di4c_plugin.diffusion.confidence`.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion.confidence import Ordered
from di4c_plugin.diffusion.schedule import Schedule
from di4c_plugin.errors import UserError


class Halton(Ordered):
    """Masked diffusion that opens in the Halton order of the grid, tokens drawn from p.

    With `randomize` each step of each example starts at a random rank and wraps around; the host's
    sampler has an option that does this once for each sample (our sampler "halton" too).

    Args:
        num_tokens: S.
        schedule: by default "arccos", which is the host's.
        mask: see `Absorbing`.
        grid: height and width; None: a square.
        randomize: see above.

    Raises:
        UserError: if `mask` is no token, or the grid has no cells. Steps raise it if the positions
            do not fill the grid.
    """

    def __init__(
        self,
        num_tokens: int,
        schedule: Schedule | None = None,
        *,
        mask: int | None = None,
        grid: tuple[int, int] | None = None,
        randomize: bool = False,
    ) -> None:
        super().__init__(num_tokens, schedule, mask=mask)
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise UserError(f"grid must be a height and a width of at least 1, not {list(grid)}")
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]))
        self.randomize = randomize

    @property
    def config(self) -> dict[str, Any]:
        """See `Process.config`."""
        grid = None if self.grid is None else list(self.grid)
        return super().config | {"name": "halton", "grid": grid, "randomize": self.randomize}

    def score(self, noise: Tensor, log_p: Tensor, temperature: Tensor) -> Tensor:
        """See `Ordered.score`; with `randomize` the noise of the first position sets the start."""
        positions = noise.shape[-1]
        rank = halton_ranks(*self._grid_of(positions), noise.device)
        if self.randomize:
            rank = (rank - (noise[..., :1] * positions).long()) % positions
        return -rank.double().expand_as(noise)

    def _grid_of(self, positions: int) -> tuple[int, int]:
        side = math.isqrt(positions)
        height, width = self.grid or (side, side)
        if height * width != positions:
            problem = "is no square: give the grid" if self.grid is None else f"is not {self.grid}"
            raise UserError(f"a grid of {positions} positions {problem}")
        return height, width


@lru_cache(maxsize=8)
def halton_ranks(height: int, width: int, device: torch.device) -> Tensor:
    """Return the rank of each cell in the Halton sequence, (height * width,), int64, from 0.

    Point i = 1, 2, ... has its row by the base-2 and its column by the base-3 radical inverse of i;
    a cell's rank is that of its first point. In integers: no rounding at cell borders.
    """
    ranks: dict[int, int] = {}
    index = 0
    while len(ranks) < height * width:
        index += 1
        row, column = cell(index, 2, height), cell(index, 3, width)
        ranks.setdefault(row * width + column, len(ranks))
    return torch.tensor([ranks[i] for i in range(height * width)], device=device)


def cell(index: int, base: int, cells: int) -> int:
    """Return which of `cells` equal parts of [0, 1) contains the radical inverse of `index`."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return numerator * cells // denominator
