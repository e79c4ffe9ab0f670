"""Distillation without correlations: a product student learns the teacher's marginals.

What is left of Di4C without its mixture. The student ends where the teacher is, and no nearer to
the joint distribution: use it to move a teacher into a smaller network.
"""

import torch

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Update
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.losses.mixture import kl_divergence


class Marginal(Algorithm):
    """E_t E_{x_t} sum_d KL(p^psi_{0|t} || p^theta_{0|t}), t uniform in [min_time, 1]."""

    def __init__(self, process: Process, *, min_time: float = 0.05) -> None:
        self.process = process
        self.min_time = min_time

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        generator = update.generator
        u = uniform(batch.x_0.shape[:1], generator=generator, device=batch.x_0.device)
        t = self.min_time + (1 - self.min_time) * u
        x_t = batch.keep(self.process.corrupt(batch.x_0, t, generator=generator))
        with torch.no_grad():
            target = networks["teacher"](x_t, t, cond=batch.cond)
        predicted = networks["student"](x_t, t, cond=batch.cond)
        loss = kl_divergence(target, predicted, self.process.active(x_t)).mean()
        return LossTerms({"student": loss}, {"marginal": loss.detach()})
