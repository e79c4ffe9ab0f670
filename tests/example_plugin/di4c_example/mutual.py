"""Two networks that learn in turn: a student, and a peer that sees the data.

The student learns the mean of what the frozen teacher and the moving average of the peer predict;
the peer, which starts from the teacher too, learns the data. (Mutual learning, Zhang et al. 2018,
with a frozen third.) A small example of roles: two trained networks, one update in three for the
peer, at a learning rate of its own.
"""

from collections.abc import Collection

import torch

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.diffusion import Process
from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.losses.mixture import kl_divergence, token_log_prob


class Mutual(Algorithm):
    """KL((p^psi + p^peer)/2 || p^theta) for the student, cross-entropy of x_0 for the peer.

    Args:
        process: the forward process.
        min_time: t is uniform in [min_time, 1].
        every: the peer is trained in one of so many updates.
    """

    def __init__(self, process: Process, *, min_time: float = 0.05, every: int = 3) -> None:
        self.process, self.min_time, self.every = process, min_time, every
        self.roles = {"student": Role(), "peer": Role(lr=0.5, averaged=True)}

    def trained(self, update: Update) -> Collection[str]:
        """See `Algorithm.trained`."""
        return ("peer",) if update.index % self.every == self.every - 1 else ("student",)

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        """See `Algorithm.losses`."""
        u = uniform(batch.x_0.shape[:1], generator=update.generator, device=batch.x_0.device)
        t = self.min_time + (1 - self.min_time) * u
        x_t = batch.keep(self.process.corrupt(batch.x_0, t, generator=update.generator))
        active = self.process.active(x_t)
        (role,) = self.trained(update)
        predicted = networks[role](x_t, t, cond=batch.cond)
        if role == "peer":
            loss = -token_log_prob(predicted[None], batch.x_0[None], active).sum(-1).mean()
        else:
            with torch.no_grad():
                parts = [networks[name](x_t, t, cond=batch.cond) for name in SOURCES]
                target = torch.stack(parts).logsumexp(0) - torch.tensor(2.0).log()
            loss = kl_divergence(target, predicted, active).mean()
        return LossTerms({role: loss}, {role: loss.detach()})


SOURCES = ("teacher", "peer_average")
