r"""Denoising: trains a teacher, by masked diffusion's evidence lower bound or by cross-entropy.

Masked diffusion (MDLM, Sahoo et al. 2024, its continuous-time bound): the cross-entropy of the
masked tokens is weighted by -\alpha'_t / (1 - \alpha_t), which is 1/t for the log-linear schedule.
Other processes: the plain cross-entropy of x_0, tauLDR's auxiliary loss (Campbell et al. 2022).
"""

from typing import Annotated

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Update
from di4c_plugin.algorithms.noising import drop_labels, low_discrepancy_times
from di4c_plugin.diffusion import Absorbing, Process, Schedule
from di4c_plugin.losses.mixture import token_log_prob
from di4c_plugin.options import typed
from di4c_plugin.values import Range, Share


class Denoising(Algorithm):
    """Training of a product model on data.

    Args:
        process: the forward process.
        label_dropout: share of examples trained without their class label.
        min_time: t is drawn from [min_time, 1).
    """

    needs_teacher = False

    @typed
    def __init__(
        self,
        process: Process,
        *,
        label_dropout: Share = 0.1,
        min_time: Annotated[float, Range(0, below=1)] = 1e-3,
    ) -> None:
        self.process = process
        self.label_dropout = label_dropout
        self.min_time = min_time

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        generator = update.generator
        t = low_discrepancy_times(len(batch.x_0), self.min_time, generator)
        x_t = batch.keep(self.process.corrupt(batch.x_0, t, generator=generator))
        cond = drop_labels(batch.cond, self.label_dropout, generator)
        log_p_0 = networks["student"](x_t, t, cond=cond)
        active = self.process.active(x_t)
        cross_entropy = -token_log_prob(log_p_0[None], batch.x_0[None], active).sum(-1).flatten()
        if not isinstance(self.process, Absorbing):
            return _terms("cross_entropy", cross_entropy)
        weight = elbo_weight(self.process.schedule, t).to(cross_entropy.dtype)
        return _terms("nelbo", weight * cross_entropy)


def elbo_weight(schedule: Schedule, t: Tensor) -> Tensor:
    r"""Return -\alpha'_t / (1 - \alpha_t), shape (B,), float64, for t in (0, 1]."""
    with torch.enable_grad():
        t = t.detach().double().requires_grad_()
        alpha = schedule.alpha(t)
        (slope,) = torch.autograd.grad(alpha.sum(), t)
    return -slope / (1 - alpha.detach())


def _terms(name: str, loss: Tensor) -> LossTerms:
    mean = loss.mean()
    return LossTerms({"student": mean}, {name: mean.detach()})
