r"""The reward of RS-MMD: how close fill-ins are to a real sequence, as sums of a kernel of tokens.

With features y_i of the real sequence and z_{b,i} of M fill-ins at m selected positions, and
k(a, b) = exp(-\alpha |a - b|^2) (RS-MMD 2026, arXiv 2610.06648):

    r = 1/M \sum_b a_b - \rho / (M (M - 1)) \sum_{b != b'} c_{b b'}
    a_b      = 2 / m^2 \sum_{i, j} k(y_i, z_{b,j})                        attraction
    c_{b b'} = 1 / (m (m - 1)) \sum_{i != j} k(z_{b,i}, z_{b',j})         repulsion

With \rho = 1 it is minus the squared MMD, without its constant. a and c are stored by token (j for
a, i for c), so that credit can be local. Rows with fewer than two positions have no reward.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from di4c_plugin.errors import UserError


@dataclass(frozen=True)
class Similarities:
    """a by token, (M, B, D), and c by token of its first fill-in, (M, M, B, D); 0 elsewhere."""

    a: Tensor
    c: Tensor


def similarities(
    real: Tensor, fakes: Tensor, selected: Tensor, alpha: Tensor | float, max_bytes: int
) -> Similarities:
    """Return the kernel sums of features.

    Args:
        real: (B, D, H), fp32 or better.
        fakes: (M, B, D, H).
        selected: bool (B, D).
        alpha: of the kernel.
        max_bytes: budget for a block of pairs, M x rows x M x m.
    """
    m_fakes, b, d = fakes.shape[:3]
    a, c = fakes.new_zeros(m_fakes, b, d), fakes.new_zeros(m_fakes, m_fakes, b, d)
    for n, index in enumerate(selected):
        positions = index.nonzero().squeeze(-1)
        m = len(positions)
        if m < 2:
            continue
        # Centred, for the distances of fp32.
        mean = real[n, positions].mean(0)
        y, z = real[n, positions] - mean, fakes[:, n, positions] - mean
        size = max(1, max_bytes // (3 * y.element_size() * m_fakes**2 * m))
        for i in range(0, m, size):
            part, rows = positions[i : i + size], z[:, i : i + size]
            a[:, n, part] = 2 / m**2 * kernel(rows, y, alpha).sum(-1)
            every = kernel(rows, z.flatten(0, 1), alpha).unflatten(-1, (m_fakes, m)).sum(-1)
            gaps = (rows.unsqueeze(1) - rows).square().sum(-1)
            c[:, :, n, part] = (every.transpose(1, 2) - (-alpha * gaps).exp()) / (m * (m - 1))
    return Similarities(a, c)


def kernel(one: Tensor, other: Tensor, alpha: Tensor | float) -> Tensor:
    """Return exp(-alpha |a - b|^2) for all pairs of (..., c, H) and (m, H), (..., c, m)."""
    return (-alpha * torch.cdist(one, other.expand(*one.shape[:-2], *other.shape)).square()).exp()


def median_alpha(real: Tensor, selected: Tensor, most: int = 256) -> Tensor:
    """Return 1 / the median squared distance of selected tokens' features, for the kernel."""
    tokens = real[selected]
    tokens = tokens[:: max(1, -(-len(tokens) // most))]
    if len(tokens) < 2:
        return real.new_ones(())
    distances = torch.pdist(tokens - tokens.mean(0)).square()
    return 1 / distances.median().clamp(min=torch.finfo(real.dtype).tiny ** 0.5)


def own_terms(s: Similarities, repulsion: float) -> Tensor:
    r"""Return the credit of each fill-in, by token, (M, B, D): all pairs, own terms.

    M times the terms of r that contain b, less the mean over b' != b of the same without b:
    unbiased, for the latter does not depend on b.
    """
    m = len(s.a)
    if m < 3:
        raise UserError(f"the all-pairs estimator needs 3 fill-ins of a sequence, not {m}")
    c = s.c * (1 - torch.eye(m, dtype=s.c.dtype, device=s.c.device)).view(m, m, 1, 1)
    rows = c.sum(1)
    with_own = s.a - 2 * repulsion / (m - 1) * rows
    others = (s.a.sum(0) - s.a) / (m - 1)
    # \sum over b', b'' != b of c_{b' b''}; tokens are those of b'.
    without = rows.sum(0) - rows - c.sum(0)
    return with_own - others + 2 * repulsion / ((m - 1) * (m - 2)) * without


def candidates(s: Similarities, repulsion: float, fills: int) -> Tensor:
    """Return the paper's credit, by token, (M, B, D): of candidates of `fills` fill-ins each.

    Each fill-in gets `fills` times the reward of its candidate less the mean of the others', scaled
    as in `own_terms`, in equal parts for its tokens.
    """
    m, b, d = s.a.shape
    groups = m // fills
    a = s.a.sum(-1).view(groups, fills, b).mean(1)
    c = s.c.sum(-1).view(groups, fills, groups, fills, b)
    of_group = torch.stack([c[g, :, g] for g in range(groups)])  # (G, B, B, b)
    same = torch.diagonal(of_group, dim1=1, dim2=2).sum(-1)
    reward = a - repulsion * (of_group.sum((1, 2)) - same) / (fills * (fills - 1))
    advantage = fills * (reward - reward.mean(0)) * groups / (groups - 1)
    return (advantage.repeat_interleave(fills, 0) / d).unsqueeze(-1).expand(m, b, d)


def reward(s: Similarities, repulsion: float) -> Tensor:
    """Return r of each sequence, (B,)."""
    m = len(s.a)
    c = s.c.sum(-1)
    off = c.sum((0, 1)) - torch.diagonal(c).sum(-1)
    return s.a.sum(-1).mean(0) - repulsion * off / (m * (m - 1))


def credited(values: Tensor, radius: int | None) -> Tensor:
    """Return the credit of each token, (M, B, D): the sum over its sequence, or its neighbours.

    Args:
        values: by token, (M, B, D).
        radius: greatest distance that counts; None: unlimited, and the estimate is unbiased.
    """
    if radius is None:
        return values.sum(-1, keepdim=True).expand_as(values)
    total = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    position = torch.arange(values.shape[-1], device=values.device)
    end = (position + radius + 1).clamp(max=values.shape[-1])
    return total[..., end] - total[..., (position - radius).clamp(min=0)]
