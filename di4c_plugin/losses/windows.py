r"""Windows of positions, for separate estimates of a mixture's correlation.

The marginal of a mixture of products on a window W is the mixture of the products on it,
p(x_W) = E_lambda[\prod_{d in W} p^d(x^d; lambda)], so that -log p(x_W) + \sum_{d in W} log \bar p^d
is as exact on each window as on all positions at once. N lambda estimate the joint of 2 to 8
positions well, but not that of 1024: a mixture of N products cannot gain more than log N nats, on
all positions or on each window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.losses.mixture import log_mean_exp


@dataclass(frozen=True)
class Windows:
    """A partition of positions: the window of each, 0 ... count - 1.

    `index` is int64, (B, D) for the positions of a batch, (P,) for some of them, flat.
    """

    index: Tensor
    count: int


def place_windows(
    size: int, grid: Sequence[int], batch: int, *, generator: torch.Generator
) -> Windows:
    """Cut the positions of each of `batch` examples into windows with a random offset.

    Args:
        size: of a window, along each of the last two axes of `grid`.
        grid: shape of the positions: (D,) of text, (h, w) or (channels, h, w) of pictures, whose
            windows are squares with all channels.
        batch: B.
        generator: of the offsets, one for each example and axis.
    """
    axes, device = grid[-2:], generator.device
    index, count = torch.zeros((batch, *axes), dtype=torch.long, device=device), 1
    for axis, length in enumerate(axes):
        coordinate = torch.arange(length, device=device).expand(batch, -1)
        step, parts = length, 1
        if size < length:
            step, parts = size, (length + size - 2) // size + 1
            offset = uniform((batch, 1), generator=generator, device=device) * size
            coordinate = coordinate + offset.long()
        shape = [length if other == axis else 1 for other in range(len(axes))]
        index = index * parts + (coordinate // step).view(batch, *shape)
        count *= parts
    return Windows(index.flatten(1).repeat(1, prod(grid[:-2])), count)


def correlation(
    ell: Tensor, example: Tensor, count: int, windows: Sequence[Windows] = ()
) -> Tensor:
    r"""Return mean_j[-log p(x_j) + log \bar p(x_j)] of each example, (count,), in nats.

    In float64: sums of 1000 positions reach 10^4 nats, and their differences weight the lambda.

    Args:
        ell: log p_n(x_j) at P positions, (N, J, P).
        example: index of each position's example, (P,).
        count: number of examples.
        windows: partitions; the result is the mean over them of the sum over their windows; none:
            all positions at once.
    """
    exact = ell.double()
    full = [Windows(torch.zeros_like(example), 1)]
    joints = []
    for cut in windows or full:
        group, groups = example * cut.count + cut.index, count * cut.count
        joints.append(log_mean_exp(_sums(exact, group, groups)).unflatten(-1, (count, -1)).sum(-1))
    independent = _sums(log_mean_exp(exact), example, count)
    return (independent - torch.stack(joints).mean(0)).mean(0).to(ell.dtype)


def independent_log_prob(ell: Tensor, example: Tensor, count: int) -> Tensor:
    r"""Return mean_j log \bar p(x_j) of each example, (count,), float64; see `correlation`."""
    return _sums(log_mean_exp(ell.double()), example, count).mean(0)


def _sums(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the sums of values (..., P) over the positions of each group, (..., groups)."""
    return values.new_zeros(*values.shape[:-1], groups).index_add(-1, group, values)
