r"""Divergences of a student's law p from a fixed target q at c positions, from log p and log q.

From SDTT (Deschenaux and Gulcehre 2024, arXiv 2410.21035); q has no gradient. They are arguments of
`di4c_plugin.losses.positions.position_sums`, and return (N, c) for log p and log q (N, c, S).
"""

from collections.abc import Callable

from torch import Tensor

from di4c_plugin.diffusion.process import LOG_ZERO
from di4c_plugin.losses.mixture import kl


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return KL(q || p) = \sum_c q_c (\log q_c - \log p_c)."""
    return kl(log_q, log_p)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return KL(p || q) = \sum_c p_c (\log p_c - \log q_c)."""
    return kl(log_p, log_q)


def squared(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return 1/S \sum_c (\log p_c - \log q_c)^2 over the possible tokens."""
    return _difference(log_p, log_q).square().mean(-1)


def absolute(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return \sum_c |\log p_c - \log q_c| over the possible tokens: the released code's "tvd"."""
    return _difference(log_p, log_q).abs().sum(-1)


def total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return 1/2 \sum_c |p_c - q_c|."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def _difference(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return log p - log q, and 0 for tokens that the process or the evidence excludes."""
    return (log_p - log_q).where((log_p > LOG_ZERO / 2) & (log_q > LOG_ZERO / 2), 0)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": forward_kl,
    "reverse_kl": reverse_kl,
    "mse": squared,
    "tvd": total_variation,
    "l1": absolute,
}
