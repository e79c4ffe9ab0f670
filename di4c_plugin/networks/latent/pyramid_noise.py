"""The latent as a pyramid of noise on the residual stream, for pictures.

D-MMD (Hoogeboom et al. 2026, arXiv 2603.20155), "input noise" for pictures: a learned projection of
a two-dimensional pyramid of Gaussian noise is added to the residual stream.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks.latent.base import Sizes, gaussian
from di4c_plugin.networks.latent.stream_noise import StreamNoiseLatent


class PyramidNoiseLatent(StreamNoiseLatent):
    r"""h_l -> h_l + W z_l with z_l = K^{-1/2} \sum_k n^k at the cell of level k that holds row l.

    Level 0 has a cell for each row of the residual stream; each further level has half as many on a
    side, rounded up, down to one cell. All n are standard normal, so that z_l is too, and rows far
    apart share some of their noise.

    Args:
        sizes: of the network.
        dim: coordinates of each n.
        std: as for `StreamNoiseLatent`.
        grid: height and width of the residual stream's rows; None: a square, or else one row.

    Raises:
        UserError: if the rows do not fill the grid.
    """

    def __init__(
        self, sizes: Sizes, *, dim: int = 16, std: float = 0.5, grid: Sequence[int] | None = None
    ) -> None:
        super().__init__(sizes, dim=dim, std=std)
        side, length = math.isqrt(sizes.length), sizes.length
        square = side * side == length
        height, width = grid or ((side, side) if square else (1, length))
        if height < 1 or height * width != length:
            raise UserError(
                f"latent.grid: the residual stream has {length} rows, not {list(grid or ())}"
            )
        self.levels = cells_of_rows(height, width)
        self.latent_shape = (int(self.levels.max()) + 1, dim)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: W z, shape (B, L, H)."""
        return self.encode_first(latent, self.levels.shape[1])

    def encode_first(self, latent: Tensor, length: int) -> Tensor:
        """See `LatentInjector.encode_first`."""
        n, levels = gaussian(latent), self.levels[:, :length]
        z = sum(n[:, level.to(n.device)] for level in levels) / len(levels) ** 0.5
        noise: Tensor = self.projection(z.to(self.projection.weight.dtype))
        return noise


def cells_of_rows(height: int, width: int) -> Tensor:
    """Return the cell of each level that holds each row, (K, height * width), int64.

    Cells are numbered through all levels.
    """
    row, column = torch.arange(height).unsqueeze(1), torch.arange(width)
    levels, offset, scale = [], 0, 1
    while True:
        across = -(-width // scale)
        down = -(-height // scale)
        levels.append((offset + row // scale * across + column // scale).flatten())
        if down == across == 1:
            return torch.stack(levels)
        offset, scale = offset + down * across, 2 * scale
