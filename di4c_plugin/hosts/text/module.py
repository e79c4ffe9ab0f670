"""Di4C as a LightningModule of the host: mixed in before the host's own class.

The host keeps its data, optimiser, schedule, EMA, metrics, callbacks and checkpoint format; this
class swaps the backbone for a student, the loss for an `Algorithm`'s and the sampler for ours.
Tests: tests/hosts/text/test_module.py on a stand-in; tests/hosts/test_{mdlm,sdtt,duo}.py for real.
"""

from abc import abstractmethod
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.hosts.text.averages import new_average
from di4c_plugin.hosts.text.data import (
    ResumableSampler,
    batch_size,
    reordered,
    replace_training_loader,
    training_loader,
)
from di4c_plugin.hosts.text.denoiser import BackboneDenoiser
from di4c_plugin.hosts.text.errors import one_line, tell
from di4c_plugin.hosts.text.networks import (
    check_weights,
    load_backbone,
    new_student,
    restore,
    with_latent,
)
from di4c_plugin.hosts.text.peers import LostPeer
from di4c_plugin.hosts.text.rounds import Teacher, round_of
from di4c_plugin.hosts.text.sampling import SamplerSettings
from di4c_plugin.hosts.text.settings import Distillation
from di4c_plugin.hosts.text.state import RunState, restore_state, save_state
from di4c_plugin.hosts.weights import Weights
from di4c_plugin.training.rng import keyed_generator, seed_globals, step_generator

VALIDATION, HOST = 2, 3


@dataclass(frozen=True)
class Plan:
    """What a run inside a host is for.

    Attributes:
        sampler: how samples are drawn.
        distillation: what is distilled, and its teacher's weights; None for evaluation.
        weights: the teacher's weights, or in evaluation those of the model itself.
        hybrid: weights of the teacher of the hybrid sampler.
    """

    sampler: SamplerSettings
    distillation: Distillation | None
    weights: Weights
    hybrid: Weights | None = None


class TextStudent(LightningModule):
    """See the module. Host adapters say what the process is, and where the host samples."""

    plan: ClassVar[Plan]
    config: Any
    backbone: nn.Module
    tokenizer: Any
    ema: Any
    noise: Any
    vocab_size: Any
    mask_index: Any
    time_conditioning: Any
    algorithm: Algorithm | None = None
    latent: dict[str, Any] | None

    @abstractmethod
    def make_process(self) -> Process:
        """Return the forward process of the host's model; raises UserError if we have none such."""

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Any:
        """What the hosts' evaluation calls; the weights were read when the plan was made."""
        return cls(options["config"], options["tokenizer"])

    @property
    def time_conditioned(self) -> bool:
        """Whether the host's backbone is told the time."""
        return bool(self.time_conditioning)

    @property
    def positions(self) -> int:
        """D, the length of a sequence."""
        return int(self.config.model.length)

    def tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """Return x_0, shape (B, D), of a batch of the host's loader."""
        return batch["input_ids"]

    def set_up(self) -> None:
        """Turn the host's untrained backbone into the student, or into the model to evaluate."""
        self.process, plan = self.make_process(), self.plan
        check_weights(plan.weights, self.process, time_conditioned=self.time_conditioned)
        # In tuples other networks are no submodules: neither in checkpoints nor under DDP.
        self._hybrid = () if plan.hybrid is None else (self._frozen(plan.hybrid),)
        self.state = RunState(teacher=plan.weights.fingerprint)
        self.entropies: list[float] = []
        self._teacher: tuple[Teacher, ...] = ()
        if plan.distillation is None:
            self._set_up_evaluation()
        else:
            self._set_up_training(plan.distillation)
        self._student = (self.as_denoiser(self.backbone),)

    def _set_up_evaluation(self) -> None:
        self.latent, self.ema = self.plan.weights.latent, None
        if self.latent is not None:
            with_latent(self.backbone, self.latent, self.process, self.positions)
        load_backbone(self.backbone, self.plan.weights)

    def _set_up_training(self, distillation: Distillation) -> None:
        if not self.config.data.get("wrap", True):
            raise UserError("data.wrap=false pads sequences, which cannot be distilled")
        weights, self.latent = self.plan.weights, distillation.latent
        self.algorithm = distillation.make(self.process)
        self._teacher = (Teacher(self._frozen(weights)),)
        # The same start on every process: each makes its own average before DDP equals them.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            new_student(self.backbone, self.latent, weights, self.process, self.positions)
        self.ema = new_average(self.ema, self)

    def as_denoiser(self, backbone: nn.Module) -> BackboneDenoiser:
        """Return a backbone of this host as a denoiser."""
        return BackboneDenoiser(backbone, self.process, time_conditioned=self.time_conditioned)

    def _frozen(self, weights: Weights) -> BackboneDenoiser:
        check_weights(weights, self.process, time_conditioned=self.time_conditioned)
        network = restore(self.backbone, weights, self.process, self.positions)
        return self.as_denoiser(network).eval().requires_grad_(False)

    @property
    def student(self) -> BackboneDenoiser:
        """The backbone as a denoiser."""
        return self._student[0]

    def networks(self) -> Networks:
        """Return teacher and student as the algorithm sees them."""
        return Networks(student=self.student, teacher=self._teacher[0].denoiser)

    # Training

    def configure_callbacks(self) -> list[Callback]:
        """Add ours to the host's."""
        return [LostPeer()]

    @one_line
    def on_fit_start(self) -> None:
        """Put the teacher where the run takes place."""
        super().on_fit_start()
        assert self.plan.distillation is not None
        if self.plan.distillation.rounds > 1 and isinstance(self.trainer.strategy, FSDPStrategy):
            raise UserError("rounds above 1 need every weight on every process: use strategy=ddp")
        for teacher in self._teacher:
            teacher.denoiser.to(self.device)

    @one_line
    def on_train_start(self) -> None:
        """Order the training data by seed and position, from where the run stands.

        In place of the hosts' own hook, which does this for several processes only.
        """
        if self.ema:
            self.ema.move_shadow_params_to_device(self.device)
        loader = training_loader(self.trainer)
        if not isinstance(loader.dataset, Sized):
            tell("the data are streamed: a resumed run begins the stream anew")
            return
        sampler = ResumableSampler(
            len(loader.dataset),
            batch_size(loader),
            seed=self.seed,
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            position=lambda: self.state.micro_step,
        )
        replace_training_loader(self.trainer, reordered(loader, sampler))

    @one_line
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the algorithm's loss in nats per token."""
        self._advance_round()
        step = self.state.micro_step
        # What the host draws from the global generators, dropout and crops: by the step as well.
        seed_globals(self.seed, HOST, self.global_rank, step)
        generator = step_generator(self.seed, self.global_rank, step, self.device)
        losses = self.losses(self.tokens(batch), generator)
        self.state.micro_step, self.state.batches = step + 1, batch_idx + 1
        loss = losses.total / self.positions
        self.log("trainer/loss", loss.detach(), on_step=True, on_epoch=False, sync_dist=True)
        # The first process's own: to reduce each term at every step would cost more than it says.
        self._log_terms("di4c", losses, on_step=True, on_epoch=False)
        return loss

    def losses(self, x_0: Tensor, generator: torch.Generator) -> LossTerms:
        """Return the terms of one batch, sums over positions in nats per example."""
        assert self.algorithm is not None
        steps = self.trainer.max_steps
        progress = self.trainer.global_step / steps if steps > 0 else 0.0
        return self.algorithm.losses(
            Batch(x_0), self.networks(), generator=generator, progress=min(progress, 1.0)
        )

    @property
    def seed(self) -> int:
        """The host's own seed."""
        return int(self.config.get("seed", 0))

    def _advance_round(self) -> None:
        """Make the student the teacher where a round ends (Di4C, iterated)."""
        assert self.plan.distillation is not None
        rounds = self.plan.distillation.rounds
        current = round_of(self.trainer.global_step, self.trainer.max_steps, rounds)
        if current > self.state.round:
            self.state.round = current
            self._teacher[0].become(self)
            tell(f"round {current + 1} of {rounds}: the student (its EMA) is now the teacher")

    def _log_terms(self, prefix: str, losses: LossTerms, **options: Any) -> None:
        values = {f"{prefix}/{k}": v / self.positions for k, v in losses.terms.items()}
        self.log_dict(values, **options)

    # Validation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """The host's own metrics, and the algorithm's terms on the same batch."""
        answer = self.host_validation(batch, batch_idx)
        if self.algorithm is not None:
            generator = keyed_generator(
                self.seed, VALIDATION, self.global_rank, batch_idx, device=self.device
            )
            losses = self.losses(self.tokens(batch), generator)
            self._log_terms("val/di4c", losses, on_step=False, on_epoch=True, sync_dist=True)
        return answer

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
        """Add what resumes the run and describes the student; leave out the host's pickles."""
        super().on_save_checkpoint(checkpoint)
        save_state(self, checkpoint)

    @one_line
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run is the same, and go on where it was."""
        restore_state(self, checkpoint)
        super().on_load_checkpoint(checkpoint)
