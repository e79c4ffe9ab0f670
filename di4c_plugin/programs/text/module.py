"""A method as a LightningModule of the host: mixed in before the host's own class.

The host keeps its data, optimiser, schedule, EMA, metrics, callbacks and checkpoint format; this
class swaps the backbone for a student, the loss for an `Algorithm`'s and the sampler for ours.
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms
from di4c_plugin.announce import announce
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.averages import Still, averages, new_average
from di4c_plugin.programs.text.data import (
    ResumableSampler,
    batch_size,
    reordered,
    replace_training_loader,
    training_loader,
)
from di4c_plugin.programs.text.denoiser import BackboneDenoiser
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.networks import (
    check_weights,
    load_backbone,
    new_student,
    restore,
    with_latent,
)
from di4c_plugin.programs.text.optimiser import groups_by_role, set_rates
from di4c_plugin.programs.text.peers import LostPeer
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.settings import Distillation
from di4c_plugin.programs.text.state import RunState, restore_state, save_state
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine
from di4c_plugin.training.rng import keyed_generator, seed_globals

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
    engine: Engine | None = None
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
        self.updates = 1  # of the whole run; the trainer knows them when it starts
        if plan.distillation is None:
            self._set_up_evaluation()
            self._student = (self.as_denoiser(self.backbone),)
        else:
            self._set_up_training(plan.distillation)

    def _set_up_evaluation(self) -> None:
        self.latent, self.ema = self.plan.weights.latent, None
        if self.latent is not None:
            with_latent(self.backbone, self.latent, self.process, self.positions)
        load_backbone(self.backbone, self.plan.weights)

    def _set_up_training(self, distillation: Distillation) -> None:
        if not self.config.data.get("wrap", True):
            raise UserError("data.wrap=false pads sequences, which cannot be distilled")
        algorithm, weights = distillation.make(self.process), self.plan.weights
        roles = algorithm.roles
        self.latent = distillation.latent_of(roles["student"])
        teacher = self._frozen(weights)
        others = {name: copy.deepcopy(self.backbone) for name in roles if name != "student"}
        # The same start on every process: each makes its own average before DDP equals them.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            new_student(self.backbone, self.latent, weights, self.process, self.positions)
            for name, network in others.items():
                latent = distillation.latent_of(roles[name])
                new_student(network, latent, weights, self.process, self.positions)
        self.ema = new_average(self.ema, self)
        self._student = (self.as_denoiser(self.backbone),)
        self.di4c_networks = nn.ModuleDict({k: self.as_denoiser(v) for k, v in others.items()})
        networks: dict[str, Any] = {"student": self.student, **self.di4c_networks}
        decay = self.ema.decay if self.ema else 0.0
        self.di4c_averages = nn.ModuleDict(
            {name: EMA(networks[name], decay) for name, role in roles.items() if role.averaged}
        )
        self.engine = Engine(
            algorithm,
            {name: networks[name] for name in roles},
            teacher,
            averages=dict(self.di4c_averages.items()),  # type: ignore[arg-type]
            next_teacher=self.next_teacher,
            rounds=distillation.rounds,
            seed=self.seed,
        )

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

    @property
    def algorithm(self) -> Algorithm | None:
        """The method; None in evaluation."""
        return None if self.engine is None else self.engine.algorithm

    def next_teacher(self, weights: dict[str, Tensor] | None = None) -> BackboneDenoiser:
        """Return a frozen copy of the student, with these weights or else its averages."""
        network = copy.deepcopy(self.backbone)
        own = dict(network.named_parameters())
        for name, value in (averages(self) if weights is None else weights).items():
            own[name].data.copy_(value)
        frozen = self.as_denoiser(network).eval().requires_grad_(False)
        return frozen.to(self.device)

    # Training

    def setup(self, stage: str) -> None:
        """Let DDP know that an update may leave a network out."""
        super().setup(stage)
        strategy = self.trainer.strategy
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
        """Limit the gradient's norm as the host asks, of each role by itself."""
        assert self.engine is not None, "evaluation has no gradient"
        if len(self.engine.algorithm.roles) > 1 and gradient_clip_val:
            self.engine.clip(float(gradient_clip_val))
            return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Update as the host does; averages move only with an update that trains their network."""
        assert self.engine is not None, "evaluation has no optimiser"
        index, ema = self.trainer.global_step, self.ema
        trained = self.engine.trained(index, self.updates)
        set_rates(self.trainer.optimizers[0], self.engine.algorithm.roles)
        self.ema = ema if ema is None or "student" in trained else Still(ema)
        super().optimizer_step(*arguments, **options)
        self.ema = ema
        self.engine.finish(index, self.updates)

    def configure_callbacks(self) -> list[Callback]:
        """Add ours to the host's."""
        return [LostPeer()]

    @one_line
    def on_fit_start(self) -> None:
        """Put the teacher where the run takes place."""
        super().on_fit_start()
        assert self.engine is not None
        assert isinstance(self.engine.teacher, nn.Module)
        if self.engine.rounds > 1 and isinstance(self.trainer.strategy, FSDPStrategy):
            raise UserError("rounds above 1 need every weight on every process: use strategy=ddp")
        self.engine.teacher.to(self.device)

    @one_line
    def on_train_start(self) -> None:
        """Order the training data by seed and position, from where the run stands.

        In place of the hosts' own hook, which does this for several processes only.
        """
        if self.ema:
            self.ema.move_shadow_params_to_device(self.device)
        loader = training_loader(self.trainer)
        if not isinstance(loader.dataset, Sized):
            announce("the data are streamed: a resumed run begins the stream anew")
            self._count_updates()
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
        self._count_updates()

    def _count_updates(self) -> None:
        """Learn how long the run is, whatever ends it; raises UserError where rounds need to."""
        assert self.engine is not None
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total) and self.engine.rounds > 1:
            raise UserError("rounds above 1 need the length of the run: trainer.max_steps=NUMBER")
        self.updates = int(total) if math.isfinite(total) else 1

    @one_line
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the algorithm's loss in nats per token."""
        assert self.engine is not None
        engine, step, index = self.engine, self.state.micro_step, self.trainer.global_step
        if engine.begin(index, self.updates, self.trainer.optimizers[0]):
            number = f"round {engine.round + 1} of {engine.rounds}"
            announce(f"{number}: the student (its EMA) is now the teacher")
        self.state.round = engine.round
        # What the host draws from the global generators, crops of the data: by the step as well.
        seed_globals(self.seed, HOST, self.global_rank, step)
        losses = engine.losses(
            Batch(self.tokens(batch)),
            index,
            self.updates,
            rank=self.global_rank,
            step=step,
            device=self.device,
        )
        self.state.micro_step, self.state.batches = step + 1, batch_idx + 1
        loss = losses.total / self.positions
        self.log("trainer/loss", loss.detach(), on_step=True, on_epoch=False, sync_dist=True)
        # The first process's own: to reduce each term at every step would cost more than it says.
        self._log_terms("di4c", losses, on_step=True, on_epoch=False)
        return loss

    def losses(self, x_0: Tensor, generator: torch.Generator) -> LossTerms:
        """Return the terms of a batch of the validation, in nats per example."""
        assert self.engine is not None
        update = self.engine.update(generator, self.trainer.global_step, self.updates)
        return self.engine.losses_by(Batch(x_0), update)

    @property
    def seed(self) -> int:
        """The host's own seed."""
        return int(self.config.get("seed", 0))

    def _log_terms(self, prefix: str, losses: LossTerms, **options: Any) -> None:
        values = {f"{prefix}/{k}": v / self.positions for k, v in losses.terms.items()}
        self.log_dict(values, **options)

    # Validation

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """The host's own metrics, and the algorithm's terms on the same batch."""
        answer = self.host_validation(batch, batch_idx)
        if self.engine is not None:
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
