r"""Log-probabilities of a mixture of product models, estimated with N latents.

p^theta(x | x_t) = E_lambda[\prod_d p^d(x^d | x_t; lambda)] (Di4C, arXiv 2410.08709, "mixture"
models); with lambda_1 ... lambda_N its Monte Carlo estimate is a log-mean-exp. Shapes: log_p is
(N, B, D, S), targets x are (J, B, D): J joint samples for each x_t. Sums run in fp32 or better.
"""

import math

from torch import Tensor


def token_log_prob(log_p: Tensor, x: Tensor, active: Tensor | None = None) -> Tensor:
    r"""Return \ell[n, j, b, d] = log p^d(x[j, b, d] | x_t; lambda_n), shape (N, J, B, D).

    Args:
        log_p: shape (N, B, D, S).
        x: shape (J, B, D), int64.
        active: bool (B, D), the positions that count; the others give 0. None: all count.
    """
    index = x.permute(1, 2, 0).expand(log_p.shape[0], -1, -1, -1)
    ell = log_p.gather(-1, index).permute(0, 3, 1, 2)
    return ell if active is None else ell.where(active, 0)


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """Return log mean exp along `dim`."""
    return values.logsumexp(dim) - math.log(values.shape[dim])


def kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    r"""Return KL(q || p) = \sum_c q_c (\log q_c - \log p_c), (...), of log-laws (..., S)."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def kl_divergence(log_q: Tensor, log_p: Tensor, active: Tensor | None = None) -> Tensor:
    r"""Return \sum_d KL(q^d || p^d) in nats over the active positions.

    Both are (..., D, S), normalised, with finite entries; `active` is bool (..., D). Result (...,).
    """
    each = kl(log_q, log_p)
    return (each if active is None else each.where(active, 0)).sum(-1)
