r"""The losses of D-MMD and its kin at c positions, functions of log-probabilities (N, c, S).

With the student's p = p_{0|t}(. | z_t; lambda), and \phi and \theta the predictions of auxiliary
and teacher at z_s (D-MMD, Hoogeboom et al. 2026, arXiv 2603.20155):
  generator  \sum_c p_c (\log \phi_c - \log \theta_c), whose gradient flows through p alone
  auxiliary  -\sum_c (x + \kappa \theta)_c \log \phi_c, x one-hot, or p in its place
They are arguments of `di4c_plugin.losses.positions.position_sums`.
"""

import torch
from torch import Tensor

from di4c_plugin.losses.chunk import pick


def generator_loss(log_p: Tensor, log_phi: Tensor, log_theta: Tensor) -> Tensor:
    r"""Return \sum_c p_c (\log \phi_c - \log \theta_c), (N, c); differentiable in p alone."""
    return (log_p.exp() * (log_phi - log_theta).detach()).sum(-1)


def jeffreys_loss(log_p: Tensor, log_phi: Tensor, log_theta: Tensor, beta: float) -> Tensor:
    r"""Return (1 - \beta) KL(\theta || \phi) + \beta KL(\phi || \theta), (N, c).

    Its gradient in the logits of \phi is that in the logits of p, which \phi imitates (Di[M]O, Zhu
    et al. 2025, arXiv 2503.15457, token-level distribution matching); nothing else has one.
    """
    log_phi, log_theta = log_phi.detach(), log_theta.detach()
    phi, theta, ratio = log_phi.exp(), log_theta.exp(), log_phi - log_theta
    forward, reverse = -(theta * ratio).sum(-1), (phi * ratio).sum(-1)
    of_logits = (1 - beta) * (phi - theta) + beta * phi * (ratio - reverse.unsqueeze(-1))
    # of_logits sums to 0: its product with log p has just this gradient in the logits of p.
    carrier = (of_logits * log_p).sum(-1)
    return (1 - beta) * forward + beta * reverse + (carrier - carrier.detach())


def cross_entropy(x: Tensor, log_phi: Tensor) -> Tensor:
    r"""Return -\log \phi at tokens x (c,), shape (N, c)."""
    return -pick(log_phi, x.unsqueeze(0)).squeeze(1)


def soft_cross_entropy(log_q: Tensor, log_phi: Tensor) -> Tensor:
    r"""Return -\sum_c q_c \log \phi_c, (N, c); differentiable in \phi alone."""
    return -(log_q.detach().exp() * log_phi).sum(-1)


def sharpened(log_p: Tensor, temperature: float, top_p: float, penalty: float) -> Tensor:
    r"""Return log p at a temperature, normalised, with tokens outside the nucleus made unlikely.

    The nucleus is the smallest set of likeliest tokens with mass `top_p` at this temperature.
    `penalty` is subtracted from the other logits: finite, so that log-ratios stay finite too.
    """
    if temperature != 1:
        log_p = (log_p / temperature).log_softmax(-1)
    if top_p == 1:
        return log_p
    p, order = log_p.exp().sort(-1, descending=True)
    before = p.cumsum(-1) - p
    outside = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return (log_p - penalty * outside).log_softmax(-1)


def entropy(log_p: Tensor) -> Tensor:
    """Return the entropy of each law, (N, c), in nats."""
    log_p = log_p.detach()
    return -(log_p.exp() * log_p).sum(-1)
