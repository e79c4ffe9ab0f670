"""The joint of a mixture, written as the paper writes it, for whole tensors."""

import torch
from torch import Tensor

from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.losses.windows import correlation


def joint_log_prob(ell: Tensor) -> Tensor:
    r"""log (1/N) \sum_n \prod_d p^d(x^d; lambda_n), (J, B), of ell (N, J, B, D)."""
    return log_mean_exp(ell.sum(-1))


def independent_log_prob(ell: Tensor) -> Tensor:
    r"""\sum_d log \bar p^d(x^d) with \bar p^d = mean_n p^d(. ; lambda_n), (J, B)."""
    return log_mean_exp(ell).sum(-1)


def correlation_loss(ell: Tensor) -> Tensor:
    """`correlation` of each example, (B,), of ell (N, J, B, D)."""
    batch, positions = ell.shape[2:]
    example = torch.arange(batch).repeat_interleave(positions)
    return correlation(ell.flatten(2), example, batch)
