"""One update of a network by an `Algorithm`, for Lightning's loop.

Tests: tests/training/test_module.py.
"""

import copy
import functools
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from di4c_plugin.algorithms.base import Algorithm, Data, Networks
from di4c_plugin.errors import UserError
from di4c_plugin.models import NetworkDenoiser
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.data import BatchStream, MicroBatch
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.rng import seeded_dropout, step_generator
from di4c_plugin.training.schedule import lr_factor
from di4c_plugin.training.terms import RunningMeans


class MixedPrecision(nn.Module):
    """A denoiser under bf16 autocast; what an algorithm does with its output stays outside.

    So losses are fp32 whatever operations an algorithm uses. Each call is an autocast region of its
    own, because autocast caches cast weights for a region and those cached without gradient would
    then be used where one is needed.
    """

    def __init__(self, denoiser: NetworkDenoiser, device: torch.device) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.latent_shape, self.process = denoiser.latent_shape, denoiser.process
        self.device_type = device.type

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        with torch.autocast(self.device_type, torch.bfloat16):
            log_p_0: Tensor = self.denoiser(x_t, t, cond=cond, latent=latent)
        return log_p_0

    @property
    def head(self) -> nn.Linear | None:
        """See `HiddenDenoiser.head`."""
        return self.denoiser.head

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.denoiser.hidden(x_t, t, cond=cond, latent=latent)


class TrainingModule(LightningModule):
    """Networks, optimiser and logging of a run; works on copies of the networks it is given."""

    def __init__(
        self,
        algorithm: Algorithm,
        student: NetworkDenoiser,
        teacher: NetworkDenoiser | None,
        data: Data,
        config: TrainingConfig,
        *,
        auxiliary: NetworkDenoiser | None = None,
    ) -> None:
        super().__init__()
        self.algorithm, self.data, self.config = algorithm, data, config
        self.student, self.auxiliary = _trainable(student), _trainable(auxiliary)
        self.ema = EMA(self.student, config.ema)
        # In a tuple the teacher is no submodule: it is neither in checkpoints nor under DDP.
        self._frozen = (copy.deepcopy(teacher),)
        self.means = RunningMeans()
        self.update = 0
        self.latest: dict[str, float] = {}

    def configure_optimizers(self) -> Any:
        """Return AdamW over all trained networks and its schedule, for Lightning.

        One optimiser serves alternating algorithms too: it skips parameters without a gradient.
        """
        config = self.config
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        factor = functools.partial(
            lr_factor, steps=config.steps, schedule=config.schedule, warmup=config.warmup
        )
        # A function, unlike a partial, leaves nothing of itself in the checkpoint.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: factor(update))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def train_dataloader(self) -> DataLoader[MicroBatch]:
        """Return the stream of batches from where the run stands."""
        stream = BatchStream(
            self.data,
            self.config.batch_size,
            seed=self.config.seed,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            start=self.trainer.global_step * self.config.accumulate,
        )
        return DataLoader(stream, batch_size=None)

    def transfer_batch_to_device(
        self, batch: MicroBatch, device: torch.device, dataloader_idx: int
    ) -> MicroBatch:
        """Move a batch; Lightning itself does not move frozen dataclasses."""
        return batch.to(device)

    def on_fit_start(self) -> None:
        """Set up the networks where the run takes place."""
        if self.config.compile:
            self.student.network.compile()
        # A checkpoint is loaded before the networks are on their device.
        self.means.sums = {name: value.to(self.device) for name, value in self.means.sums.items()}
        for network in self._frozen:
            if network is not None:
                network.to(self.device).eval().requires_grad_(False)

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        """Choose what the coming update trains."""
        self.update = batch.step // self.config.accumulate
        if self.auxiliary is not None:
            trained = self.algorithm.trains(self.update)
            self.student.requires_grad_(trained == "student")
            self.auxiliary.requires_grad_(trained == "auxiliary")

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-step."""
        key = (self.config.seed, self.global_rank, batch.step)
        with seeded_dropout(*key, self.device):
            losses = self.algorithm.losses(
                batch.batch,
                self.networks(),
                generator=step_generator(*key, device=self.device),
                progress=self.update / self.config.steps,
            )
        self.means.add({"loss": losses.total, **losses.terms})
        return losses.total

    def networks(self) -> Networks:
        """Return the networks as the algorithm sees them."""
        return Networks(
            student=self._as_denoiser(self.student),
            teacher=self._as_denoiser(self._frozen[0]),
            target=self._as_denoiser(
                self.ema.network if self.config.target == "ema" else self.student
            ),
            auxiliary=self._as_denoiser(self.auxiliary),
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update, then let the moving average follow.

        All that belongs to an update happens in here, before callbacks may save a checkpoint.
        """
        super().optimizer_step(*args, **kwargs)
        if self.auxiliary is None or self.algorithm.trains(self.update) == "student":
            self.ema.update(self.student, self.update)
        done = self.update + 1
        if done % self.config.log_every == 0 or done == self.config.steps:
            self._log_terms(done)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the running means, so that the log of a resumed run is that of an unbroken one."""
        self.means.average(self._over_processes)
        checkpoint["means"] = {"sums": self.means.sums, "counts": self.means.counts}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        means = checkpoint["means"]
        self.means.sums, self.means.counts = means["sums"], means["counts"]

    def _as_denoiser(self, network: Any) -> Any:
        if network is None or self.config.precision == "32-true":
            return network
        return MixedPrecision(network, self.device)

    def _log_terms(self, done: int) -> None:
        self.means.average(self._over_processes)
        self.latest = self.means.read()
        if not all(map(math.isfinite, self.latest.values())):
            raise UserError(f"the loss is not finite after {done} updates; a smaller lr may help")
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics({**self.latest, "lr": rate}, step=done)

    def _over_processes(self, value: Tensor) -> Tensor:
        mean: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean


def _trainable(network: Any) -> Any:
    return None if network is None else copy.deepcopy(network).requires_grad_(True).train()
