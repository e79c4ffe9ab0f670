"""A run of an `Engine` under Lightning's loop, for the hosts without a training program."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from di4c_plugin.algorithms.base import Algorithm, Data
from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.sharing import base_names, copied, let_gradients_in, own_state
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.data import BatchStream, MicroBatch
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine
from di4c_plugin.training.finite import EVERY, FirstFault, check_finite
from di4c_plugin.training.precision import MixedPrecision
from di4c_plugin.training.schedule import lr_factor
from di4c_plugin.training.sharding import gathered, outline, settle, shard
from di4c_plugin.training.terms import RunningMeans


class TrainingModule(LightningModule):
    """Networks, optimiser and logging of a run; it trains copies of the networks.

    The copies share any base that the networks share, and checkpoints leave it out.

    Args:
        algorithm: the method.
        networks: the denoiser that each of its roles starts from.
        teacher: None for methods without one.
        data: at least one example.
        config: see `TrainingConfig`.
        blocks: names of the blocks to shard, by role and for "teacher", see `block_names`. Empty:
            nothing is sharded.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        networks: Mapping[str, NetworkDenoiser],
        teacher: NetworkDenoiser | None,
        data: Data,
        config: TrainingConfig,
        blocks: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.data, self.config, self.blocks = data, config, dict(blocks or {})
        # A plain dict, so that they are not submodules.
        self.starts: dict[str, Any] = {**networks, "teacher": teacher} if self.blocks else {}
        if self.blocks:  # no weights before they are sharded, see `configure_model`
            networks = {name: outline(network) for name, network in networks.items()}
            teacher = None if teacher is None else outline(teacher)
        self.networks = nn.ModuleDict({name: _trainable(n) for name, n in networks.items()})
        averaged = {name for name, role in algorithm.roles.items() if role.averaged} | {"student"}
        self.averages = nn.ModuleDict(
            {name: EMA(self.networks[name], config.ema) for name in sorted(averaged)}  # type: ignore[arg-type]
        )
        # The teacher is not a submodule, so that neither checkpoints nor DDP see it.
        frozen = None if teacher is None else _frozen(teacher)
        self.engine = Engine(
            algorithm,
            dict(self.networks.items()),
            frozen,
            averages=dict(self.averages.items()),  # type: ignore[arg-type]
            next_teacher=self._next_teacher,
            rounds=config.rounds,
            seed=config.seed,
            view=self._as_denoiser,
        )
        self.means, self.fault = RunningMeans(), FirstFault()
        self.latest: dict[str, float] = {}

    def student(self) -> NetworkDenoiser:
        """Return the student with averaged weights, which the run saves."""
        average: Any = self.averages["student"].network
        return gathered(average, self.starts["student"]) if self.blocks else average

    def configure_model(self) -> None:
        """Shard the networks, once, on their device."""
        if not self.blocks or not any(p.is_meta for p in self.parameters()):
            return
        for name, network in self.networks.items():
            self._shard(network, name)
        for name, average in self.averages.items():
            self._shard(average.network, name)
        if self.engine.teacher is not None:
            self._shard(self.engine.teacher, "teacher")

    def _shard(self, network: Any, name: str) -> None:
        mesh = self.trainer.strategy.mesh  # type: ignore[attr-defined]
        bf16 = self.config.precision != "32-true"
        shard(network, self.starts[name], self.blocks[name], mesh, bf16=bf16)

    def configure_optimizers(self) -> Any:
        """Return AdamW over all trained networks and its schedule, for Lightning.

        One optimiser serves alternating algorithms too: it skips parameters without a gradient.
        """
        config = self.config
        optimizer = torch.optim.AdamW(
            self.engine.groups(config.lr), betas=config.betas, weight_decay=config.weight_decay
        )
        factor = functools.partial(
            lr_factor, steps=config.steps, schedule=config.schedule, warmup=config.warmup
        )
        # LambdaLR would save the attributes of a partial in the checkpoint, not of a function.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: factor(update))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None:
        """Clip the norm of each role's gradient."""
        if self.config.clip:
            self.engine.clip(self.config.clip)

    def train_dataloader(self) -> DataLoader[MicroBatch]:
        """Return the stream of batches from the current micro-step on."""
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
        """Compile the networks, and move to the device what Lightning does not move."""
        if self.config.compile:
            for network in self.networks.values():
                network.network.compile()  # type: ignore[union-attr]
        # A checkpoint is loaded before the networks are on their device.
        self.means.sums = {name: value.to(self.device) for name, value in self.means.sums.items()}
        if isinstance(self.engine.teacher, nn.Module):
            self.engine.teacher.to(self.device)

    def on_train_batch_start(self, batch: MicroBatch, batch_idx: int) -> None:
        """Prepare the next update: its trained roles and its teacher."""
        optimizer = self.trainer.optimizers[0]
        self.engine.begin(self._index(batch), self.config.steps, optimizer)

    def training_step(self, batch: MicroBatch, batch_idx: int) -> Tensor:
        """Return the loss of a micro-step."""
        losses = self.engine.losses(
            batch.batch,
            self._index(batch),
            self.config.steps,
            rank=self.global_rank,
            step=batch.step,
            device=self.device,
        )
        self.means.add({"loss": losses.total, **losses.terms})
        self.fault.note(losses.total, self._index(batch))
        return losses.total

    def on_after_backward(self) -> None:
        """See `settle`."""
        if self.blocks:
            teacher: Any = self.engine.teacher
            settle([self] if teacher is None else [self, teacher])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, then the averages and the log.

        Everything that belongs to an update happens here, before a callback may save a checkpoint.
        """
        index = self.trainer.global_step
        super().optimizer_step(*args, **kwargs)
        self.engine.finish(index, self.config.steps)
        done = index + 1
        last = done == self.config.steps
        if done % EVERY == 0 or last:
            self._check_finite(done)
        if done % self.config.log_every == 0 or last:
            self._log_terms(done)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the running means, so that a resumed run logs the same values as an unbroken one.

        After the first round the teacher is saved too, because the run itself made it.
        """
        self._check_finite(self.trainer.global_step)
        for name in base_names(self):
            checkpoint["state_dict"].pop(name)
        self.means.average(self._over_processes)
        checkpoint["means"] = {"sums": self.means.sums, "counts": self.means.counts}
        checkpoint["round"] = self.engine.round
        if self.engine.round:
            checkpoint["teacher"] = own_state(self.engine.teacher)  # type: ignore[arg-type]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        base, state = base_names(self), self.state_dict()
        checkpoint["state_dict"] |= {name: state[name] for name in base}
        means = checkpoint["means"]
        self.means.sums, self.means.counts = means["sums"], means["counts"]
        self.engine.round = checkpoint["round"]
        if self.engine.round:
            teacher = self._next_teacher()
            teacher.load_state_dict(teacher.state_dict() | checkpoint["teacher"])
            self.engine.teacher = teacher

    def _index(self, batch: MicroBatch) -> int:
        """Return the index of the optimiser update that a batch belongs to."""
        return batch.step // self.config.accumulate

    def _next_teacher(self) -> Any:
        if not self.blocks:
            return _frozen(self.student())
        teacher = _frozen(outline(self.starts["student"]))
        self._shard(teacher, "student")
        teacher.load_state_dict(self.averages["student"].network.state_dict())  # type: ignore[union-attr]
        return teacher

    def _as_denoiser(self, network: Any) -> Any:
        return (
            network if self.config.precision == "32-true" else MixedPrecision(network, self.device)
        )

    def _log_terms(self, done: int) -> None:
        self.means.average(self._over_processes)
        self.latest = self.means.read()
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:
            logger.log_metrics({**self.latest, "lr": rate}, step=done)

    def _check_finite(self, done: int) -> None:
        """Raise UserError if a loss or weight is not finite."""
        self.fault.check(lambda first: self.trainer.strategy.reduce(first, reduce_op="min"))
        check_finite(
            self.engine.trained_networks,
            done,
            lambda flags: self.trainer.strategy.reduce(flags, reduce_op="min"),
        )

    def _over_processes(self, value: Tensor) -> Tensor:
        mean: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean


def _trainable(network: NetworkDenoiser) -> NetworkDenoiser:
    trainable = copied(network)
    let_gradients_in(trainable, True)
    return trainable.train()


def _frozen(network: NetworkDenoiser) -> NetworkDenoiser:
    return copied(network).eval().requires_grad_(False)
