"""Frechet distance between two sets of token grids, on the tokens' own values.

The distance of the two fitted Gaussians, |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2})
(Dowson & Landau 1982; on Inception features: FID, Heusel et al. 2017). Here the features
are the tokens' values: grey levels of the digits, so that the unit is grey levels squared.
"""

import torch
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError


def frechet_distance(x: Tensor, reference: Tensor) -> float:
    """Return the distance of samples x (n, D) to reference samples (m, D), in squared token units.

    For few samples it is too large; where n <= D the size of this bias is announced.

    Raises:
        UserError: if either set has fewer than two samples, or their D differ.
    """
    if x.shape[1:] != reference.shape[1:] or min(len(x), len(reference)) < 2:
        raise UserError(
            f"Frechet distance needs two sets of at least 2 samples of one shape, "
            f"not {tuple(x.shape)} and {tuple(reference.shape)}"
        )
    distance = _distance(x, reference)
    if (n := len(x)) <= x.shape[1]:
        few = reference[
            torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))[:n]
        ]
        announce_once(
            f"{n} samples are few for {x.shape[1]} positions: as many of the reference, drawn at "
            f"random, are at a distance of {_distance(few, reference):.4g} from all of it"
        )
    return distance


def _distance(x: Tensor, reference: Tensor) -> float:
    x, reference = x.double(), reference.double()
    return gaussian_distance(
        (x.mean(0), torch.cov(x.T)), (reference.mean(0), torch.cov(reference.T))
    )


def gaussian_distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Return the Frechet distance of two Gaussians, each a mean (F,) and a covariance (F, F)."""
    (mu_1, c_1), (mu_2, c_2) = one, other
    shift = (mu_1 - mu_2).square().sum()
    # tr (C_1 C_2)^{1/2} = tr (R C_2 R)^{1/2} with R = C_1^{1/2}: symmetric, so real eigenvalues.
    root = symmetric_sqrt(c_1)
    cross = torch.linalg.eigvalsh(root @ c_2 @ root).clamp(min=0).sqrt().sum()
    return float(shift + c_1.trace() + c_2.trace() - 2 * cross)


def symmetric_sqrt(matrix: Tensor) -> Tensor:
    """Return the square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
