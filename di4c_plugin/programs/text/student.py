"""The networks of a run inside a host: its backbone as student, teacher or model to evaluate."""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from di4c_plugin.checkpoints.vocabulary import Vocabulary, live_tokenizer
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.averages import averages, new_average
from di4c_plugin.programs.text.denoiser import BackboneDenoiser
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.programs.text.measuring import Measurement
from di4c_plugin.programs.text.networks import (
    check_vocabulary,
    check_weights,
    new_student,
    restore,
)
from di4c_plugin.programs.text.recorded import PARTS
from di4c_plugin.programs.text.sampling import SamplerSettings
from di4c_plugin.programs.text.settings import Distillation
from di4c_plugin.programs.text.state import RunState
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine
from di4c_plugin.training.start import check_latent, tell_lost_latent


@dataclass(frozen=True)
class Plan:
    """The task of a run inside a host.

    Attributes:
        sampler: how samples are drawn.
        distillation: the options of the distillation; None for evaluation.
        weights: the teacher's weights, or in evaluation the model's.
        hybrid: weights of the hybrid sampler's teacher.
        start: weights of the student to continue from; None: training starts at the teacher.
        measurement: of the samples of an evaluation, or None.
    """

    sampler: SamplerSettings
    distillation: Distillation | None
    weights: Weights
    hybrid: Weights | None = None
    start: Weights | None = None
    measurement: Measurement | None = None


class TextNetworks(LightningModule):
    """The networks of a run. Host adapters define the process.

    The properties read the config by the keys of MDLM and its kin; an adapter of a host with other
    keys overrides them.

    Attributes:
        plan: the task of the run.
        parts: the keys of the host's config that determine an update: a resumed run compares them.
    """

    plan: ClassVar[Plan]
    parts: ClassVar[frozenset[str]] = PARTS
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
    vocabulary: Vocabulary | None

    @abstractmethod
    def make_process(self) -> Process:
        """Return the forward process of the host's model; raises UserError if it is not ours."""

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Any:
        """Return the module for the hosts' evaluation; the plan has read the weights."""
        module = cls(options["config"], options["tokenizer"])
        return module.to(device_of(options["config"]))

    @property
    def seed(self) -> int:
        """The host's own seed."""
        return int(self.config.get("seed", 0))

    @property
    def time_conditioned(self) -> bool:
        """Whether the host's backbone is conditioned on the time."""
        return bool(self.time_conditioning)

    @property
    def positions(self) -> int:
        """D, the length of a sequence."""
        return int(self.config.model.length)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the backbone, by the names of `di4c_plugin.networks.dit.DiTConfig`."""
        names = ("hidden_size", "cond_dim", "n_blocks", "n_heads")
        return {name: int(self.config.model[name]) for name in names}

    @property
    def padded(self) -> bool:
        """Whether sequences of the training data end in padding."""
        return not self.config.data.get("wrap", True)

    def tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """Return x_0, shape (B, D), of a batch of the host's loader."""
        return batch["input_ids"]

    def set_up(self) -> None:
        """Turn the host's untrained backbone into the student, or into the model to evaluate."""
        self.process, plan = self.make_process(), self.plan
        if not hasattr(self, "ema"):
            self.ema = None
        given = [w for w in (plan.weights, plan.hybrid, plan.start) if w is not None]
        for weights in given:
            check_weights(weights, self.process, time_conditioned=self.time_conditioned)
        # In tuples, so that they are not submodules, in neither checkpoints nor DDP.
        self._hybrid = () if plan.hybrid is None else (self._frozen(plan.hybrid),)
        start = "" if plan.start is None else plan.start.fingerprint
        self.state = RunState(teacher=plan.weights.fingerprint, start=start)
        self.entropies: list[float] = []
        self.updates = 1  # of the whole run; set when the trainer starts
        if plan.distillation is None:
            self._set_up_evaluation()
            self._student = (self.as_denoiser(self.backbone),)
        else:
            self._set_up_training(plan.distillation)
        live = live_tokenizer(self.tokenizer)
        self.vocabulary = None if live is None else live.vocabulary(self.process.config)
        for weights in given:
            check_vocabulary(weights, self.process, self.vocabulary)
        if plan.measurement is not None:
            device = device_of(self.config)
            plan.measurement.open(self.tokenizer, self.positions, self.process, device)

    def _set_up_evaluation(self) -> None:
        weights = self.plan.weights
        self.latent, self.ema = weights.latent, None
        new_student(self.backbone, self.latent, weights, self.process, self.positions)

    def _set_up_training(self, distillation: Distillation) -> None:
        if self.padded:
            raise UserError("data.wrap=false pads sequences, which cannot be distilled")
        algorithm, weights = distillation.make(self.process), self.plan.weights
        roles = algorithm.roles
        self.latent = distillation.latent_of(roles["student"])
        teacher, start = self._frozen(weights), self.plan.start
        if start is not None:
            check_latent(roles["student"], distillation.latent, start.latent)
            self.latent = start.latent
        else:
            tell_lost_latent(weights.latent, self.latent)
        others = {
            name: copy.deepcopy(self.backbone)
            for name, role in roles.items()
            if name != "student" and role.make is None
        }
        # Equal on every process: each makes its average before DDP synchronises the weights.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            initial = start or weights
            new_student(self.backbone, self.latent, initial, self.process, self.positions)
            for name, network in others.items():
                latent = distillation.latent_of(roles[name])
                new_student(network, latent, weights, self.process, self.positions)
            self._student = (self.as_denoiser(self.backbone),)
            further: dict[str, nn.Module] = {
                name: role.make(self.student, self.positions)
                for name, role in roles.items()
                if role.make is not None
            }
        self.ema = new_average(self.ema, self)
        further |= {name: self.as_denoiser(network) for name, network in others.items()}
        self.di4c_networks = nn.ModuleDict(further)
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
        network = restore(self.backbone, weights, self.process, self.positions)
        return self.as_denoiser(network).eval().requires_grad_(False)

    @property
    def student(self) -> BackboneDenoiser:
        """The backbone as a denoiser."""
        return self._student[0]

    def next_teacher(self, weights: dict[str, Tensor] | None = None) -> BackboneDenoiser:
        """Return a frozen copy of the student with these weights, by default its averages."""
        network = copy.deepcopy(self.backbone)
        parameters = dict(network.named_parameters())
        for name, value in (averages(self) if weights is None else weights).items():
            parameters[name].data.copy_(value)
        frozen = self.as_denoiser(network).eval().requires_grad_(False)
        return frozen.to(self.device)

    @one_line
    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; if the host wraps the backbone by `torch.compile`, compile in place.

        The trained networks are then compiled under their own names.

        Raises:
            UserError: for any other wrapper.
        """
        if name != "backbone" or "_student" not in vars(self):
            super().__setattr__(name, value)
        elif getattr(value, "_orig_mod", None) is self.backbone:
            for denoiser in (self.student, *getattr(self, "di4c_networks", {}).values()):
                denoiser.network.compile()
        elif value is not self.backbone:
            raise UserError(f"the backbone is replaced by a {type(value).__name__}: leave that out")


def device_of(config: Any) -> str:
    """Return the device of an evaluation without a trainer: the GPU if there is one.

    Lightning would use the device from which the checkpoint was saved.
    """
    accelerator = (config.get("trainer") or {}).get("accelerator")
    return "cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu"
