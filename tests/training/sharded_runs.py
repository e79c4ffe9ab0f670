"""A run of `train` from the command line, whose draws do not depend on who draws them.

python -m tests.training.sharded_runs FOLDER STRATEGY DEVICES [resume] [dies=UPDATE] [gpu]
"""

import os
import sys
from pathlib import Path

import torch

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.errors import UserError
from di4c_plugin.losses.mixture import kl_divergence
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.training import toy

EXAMPLES = 4  # of an update


class Fixed(toy.Distil):
    """Distils at every other token, with a latent and a time of each example's own."""

    dies: int | None = None

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        if update.index == self.dies:
            os._exit(9)  # without a word, as when power fails
        x_0 = batch.x_0
        hidden = (x_0 + torch.arange(x_0.shape[1], device=x_0.device)) % 2 == 0
        x_t, t = torch.where(hidden, 3, x_0), (x_0[:, 0] + 1).double() / 4
        latent = ((x_0.unsqueeze(-1) + 0.5) / 3).expand(-1, -1, 3)
        with torch.no_grad():
            log_q = networks["teacher"](x_t, t, cond=batch.cond).roll(1, -1)
        log_p = networks["student"](x_t, t, cond=batch.cond, latent=latent)
        total = kl_divergence(log_q, log_p, hidden).mean()
        return LossTerms({"student": total}, {"distil": total.detach()})


def main(out: str, strategy: str, devices: str, *options: str) -> int:
    dies = [int(option.partition("=")[2]) for option in options if option.startswith("dies")]
    student = toy.student("mask_noise")
    method = Fixed(student.process)
    method.dies = dies[0] if dies else None
    config = TrainingConfig(
        steps=6,
        batch_size=EXAMPLES // int(devices),
        devices=int(devices),
        strategy=strategy,
        accelerator="gpu" if "gpu" in options else "cpu",
        checkpoint_every=1,
        log_every=1,
        ema=0.5,
    )
    resume = "resume" in options
    try:
        folder, data = Path(out), toy.data()
        train(method, student, toy.teacher(), data, config, folder, resume=resume, progress=False)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
