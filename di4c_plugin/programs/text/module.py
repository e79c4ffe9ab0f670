"""A method as a LightningModule of the host: mixed in before the host's own class.

The host keeps its data, optimiser, schedule, EMA, metrics, callbacks and checkpoint format; this
class swaps the backbone for a student, the loss for an `Algorithm`'s and the sampler for ours.
"""

from collections.abc import Sized
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Batch, LossTerms
from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.averages import FrozenAverage, new_average
from di4c_plugin.programs.text.data import count_anew, resume_order, training_loader
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.files import HostFiles, savers, settle, use_files
from di4c_plugin.programs.text.length import updates_of
from di4c_plugin.programs.text.optimiser import groups_by_role, set_by_role
from di4c_plugin.programs.text.peers import LostPeer
from di4c_plugin.programs.text.state import restore_state, save_state
from di4c_plugin.programs.text.student import TextNetworks
from di4c_plugin.training.finite import EVERY, FirstFault, check_finite
from di4c_plugin.training.rng import keyed_generator, seed_globals

VALIDATION, HOST = 2, 3


class TextStudent(TextNetworks):
    """See the module. Host adapters define the process, and the host's sampling methods."""

    files: HostFiles | None = None

    # Training

    @one_line
    def setup(self, stage: str) -> None:
        """Tell DDP that an update may skip a network, and set up the run's files."""
        super().setup(stage)
        strategy = self.trainer.strategy
        if stage == "fit" and self.engine is not None:
            self.files = use_files(self.trainer)
        several = self.engine is not None and len(self.engine.algorithm.roles) > 1
        if several and isinstance(strategy, FSDPStrategy):
            raise UserError("a method that trains several networks needs strategy=ddp")
        if several and isinstance(strategy, DDPStrategy):
            strategy._ddp_kwargs["find_unused_parameters"] = True

    def configure_optimizers(self) -> Any:
        """Return the host's optimiser and schedule, with a parameter group for each role."""
        parent: Any = super()
        assert self.engine is not None, "evaluation has no optimiser"
        with groups_by_role(self.engine):
            return parent.configure_optimizers()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of each role's gradient at the host's limit."""
        assert self.engine is not None, "evaluation has no gradient"
        if len(self.engine.algorithm.roles) > 1 and gradient_clip_val:
            self.engine.clip(float(gradient_clip_val))
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Update as the host does; an average moves only if the update trains its network."""
        assert self.engine is not None, "evaluation has no optimiser"
        index = self.trainer.global_step
        trained = self.engine.trained(index, self.updates)
        set_by_role(self.trainer.optimizers[0], self.engine.algorithm.roles)
        if self.ema and "student" not in trained:
            self.ema = FrozenAverage(self.ema)
        # The closure runs the update's last batch, which may begin a round.
        super().optimizer_step(*arguments, **options)
        if isinstance(self.ema, FrozenAverage):
            self.ema = self.ema.ema
        self.engine.finish(index, self.updates)
        if (index + 1) % EVERY == 0:
            self._check_finite()

    def configure_callbacks(self) -> list[Callback]:
        """Add ours to the host's."""
        return [LostPeer()]

    @one_line
    def on_fit_start(self) -> None:
        """Move the teacher to the device of the run."""
        super().on_fit_start()
        assert self.engine is not None
        assert isinstance(self.engine.teacher, nn.Module)
        if self.engine.rounds > 1 and isinstance(self.trainer.strategy, FSDPStrategy):
            raise UserError("rounds above 1 need every weight on every process: use strategy=ddp")
        self.engine.teacher.to(self.device)

    @one_line
    def on_train_start(self) -> None:
        """Continue the training data at the run's position, in the host's own order.

        This replaces the hosts' own hook, which does so for several processes only.
        """
        assert self.engine is not None
        self.fault = FirstFault()
        if self.ema:
            self.ema.move_shadow_params_to_device(self.device)
        if not isinstance(training_loader(self.trainer).dataset, Sized):
            announce("the data are streamed: a resumed run begins the stream anew")
        else:
            count_anew(self.trainer, self.state)
            resume_order(self.trainer, self.state, self.seed)
        self.updates = updates_of(self.trainer, self.engine.rounds)

    @one_line
    def on_train_end(self) -> None:
        """Warn if rounds are missing; raise UserError for weights that are not finite."""
        super().on_train_end()
        assert self.engine is not None
        self._check_finite()
        done, rounds = self.engine.round + 1, self.engine.rounds
        if self.trainer.global_step >= self.updates and done < rounds:
            announce(f"warning: the run ended in round {done} of {rounds}")

    @one_line
    def on_fit_end(self) -> None:
        """Raise UserError if there were too few data for one batch."""
        super().on_fit_end()
        if self.trainer.num_training_batches == 0:
            raise UserError("a process has fewer training examples than one batch needs")

    def _check_finite(self) -> None:
        """Raise UserError if a loss or weight is not finite."""
        assert self.engine is not None
        self.fault.check(lambda first: self.trainer.strategy.reduce(first, reduce_op="min"))
        check_finite(self.engine.trained_networks, self.trainer.global_step)

    @one_line
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the algorithm's loss in nats per token."""
        assert self.engine is not None
        engine, step, index = self.engine, self.state.micro_step, self.trainer.global_step
        if engine.begin(index, self.updates, self.trainer.optimizers[0]):
            number = f"round {engine.round + 1} of {engine.rounds}"
            announce(f"{number}: the student (its EMA) is now the teacher")
            if "average" in engine.algorithm.renew:
                self._renew_average()
        self.state.round = engine.round
        # The host crops the data with the global generators: seed them by the step too.
        seed_globals(self.seed, HOST, self.global_rank, step)
        x_0 = self.tokens(batch)
        losses = engine.losses(
            Batch(x_0),
            index,
            self.updates,
            rank=self.global_rank,
            step=step,
            device=self.device,
        )
        self.fault.note(losses.total, index)
        per_epoch = self.trainer.num_training_batches
        self.state.count(len(x_0) * self.trainer.world_size, per_epoch)
        loss = losses.total / self.positions
        self.log("trainer/loss", loss.detach(), on_step=True, on_epoch=False, sync_dist=True)
        # From the first process only: reducing each term at every step would be too slow.
        self._log_terms("di4c", losses, on_step=True, on_epoch=False)
        return loss

    def _renew_average(self) -> None:
        """Restart the host's average from the student's current weights."""
        is_frozen = isinstance(self.ema, FrozenAverage)
        fresh = new_average(self.ema.ema if is_frozen else self.ema, self)
        self.ema = FrozenAverage(fresh) if is_frozen else fresh

    def losses(self, x_0: Tensor, generator: torch.Generator) -> LossTerms:
        """Return the loss terms of a validation batch, in nats per example."""
        assert self.engine is not None
        update = self.engine.update(generator, self.trainer.global_step, self.updates)
        return self.engine.losses_by(Batch(x_0), update)

    def _log_terms(self, prefix: str, losses: LossTerms, **options: Any) -> None:
        values = {f"{prefix}/{k}": v / self.positions for k, v in losses.terms.items()}
        self.log_dict(values, **options)

    # Validation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """Log the host's own metrics, and the algorithm's terms on the same batch."""
        result = self.host_validation(batch, batch_idx)
        if self.engine is not None:
            generator = keyed_generator(
                self.seed, VALIDATION, self.global_rank, batch_idx, device=self.device
            )
            losses = self.losses(self.tokens(batch), generator)
            self._log_terms("val/di4c", losses, on_step=False, on_epoch=True, sync_dist=True)
        return result

    def host_validation(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """Call the host's `validation_step`."""
        parent: Any = super()
        return parent.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the entropy of the samples that the host drew."""
        super().on_validation_epoch_end()
        if self.entropies:
            mean = torch.tensor(self.entropies, device=self.device).mean()
            self.log("val/di4c/sample_entropy", mean, on_step=False, on_epoch=True, sync_dist=True)
            self.entropies.clear()

    # Checkpoints

    @one_line
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the run's state and the student's description; remove the host's pickles."""
        self._check_finite()
        super().on_save_checkpoint(checkpoint)
        save_state(self, checkpoint)

    @one_line
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is the same, and restore its state."""
        restore_state(self, checkpoint)
        if self.files is not None and self.files.loaded is not None:
            settle(checkpoint, savers(self.trainer), self.files.loaded)
        super().on_load_checkpoint(checkpoint)
