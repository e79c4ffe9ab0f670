"""Our samplers with the interface of Halton-MaskGIT's: constructors, call and results.

    sampler = HaltonSampler(w=2, step=8)         # or ConfidenceSampler, or sampler="di4c"
    x, codes, masks = sampler(trainer, nb_sample=8, labels=labels)

The network is the trainer's, averaged if it keeps an average, or a student. Ours differ from the
host's: its HaltonSampler rounds the number of open codes down, ours to the nearest; its
ConfidenceSampler redraws open codes in every step, ours keeps them; and ours never draw the mask,
nor from the top k only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridDenoiser
from di4c_plugin.families.halton import HaltonNetworks
from di4c_plugin.programs.images.codes import CodeSampler, Result, confidence_options
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.images.sampler import Request
from di4c_plugin.programs.images.shared import tensors_of
from di4c_plugin.programs.images.trace import Trace


class TrainerSampler(CodeSampler):
    """The base of both samplers, which set these attributes.

    Attributes:
        step: network calls per sample.
        flags: options of our samplers, from the host's flags.
        schedule: the host's name of a schedule.
        softmax: factor of the logits in each step.
    """

    host, networks = "halton_maskgit", HaltonNetworks()
    step: int
    flags: Mapping[str, Any]
    schedule: str
    softmax: Sequence[float]

    def __str__(self) -> str:
        """Name the sampler; the host prints it with its results."""
        return f"Scheduler: di4c {self.name}, Steps: {self.step}, of {self.origin}"

    def request(
        self,
        trainer: Any,
        init_code: Tensor | None = None,
        nb_sample: int = 50,
        labels: Tensor | None = None,
        verbose: bool = True,
    ) -> Request:
        """See `HostSampler.request`."""
        return self.over_codes(
            trainer,
            count=nb_sample,
            steps=self.step,
            options=self.flags,
            schedule=self.schedule,
            autocast=lambda: trainer.autocast,
            softmax=self.softmax,
            codes=init_code,
            labels=labels,
            verbose=verbose,
        )

    def network_of(self, trainer: Any) -> GridDenoiser:
        """See `CodeSampler.network_of`: the average if the host uses it."""
        averaged = getattr(trainer.args, "use_ema", False)
        network = trainer.ema if averaged else trainer.vit
        heads = trainer.transformer_size(trainer.args.vit_size)[2]
        denoiser: Any = self.shared.of(network, tensors_of(network), heads=heads)
        return denoiser

    def result(self, drawn: Trace, trainer: Any, *args: Any, **kwargs: Any) -> Result:
        """See `CodeSampler.result`: pictures in [-1, 1]."""
        pictures, codes, masks = super().result(drawn, trainer)
        return pictures.clamp(-1, 1), codes, masks


class HaltonSampler(TrainerSampler):
    """The host's `HaltonSampler`: arguments as there, then those of `HostSampler`.

    `sched_pow` has no effect, as in the host.
    """

    def __init__(
        self,
        sm_temp_min: float = 1,
        sm_temp_max: float = 1,
        temp_pow: float = 1,
        w: float = 4,
        sched_pow: float = 2.5,
        step: int = 64,
        randomize: bool = False,
        top_k: int = -1,
        temp_warmup: int = 0,
        *,
        sampler: str = "halton",
        student: Model | str | None = None,
        options: Mapping[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        if top_k > 0:
            raise UserError(f"our samplers draw from all codes: top_k must be -1, not {top_k}")
        super().__init__(sampler, student, options, root)
        self.step, self.schedule = self.steps_of(step), "arccos"  # whatever the training's is
        self.flags = {"guidance": w, "guidance_ramp": "constant", "randomize": randomize}
        # From min to max, halved during the warm-up.
        ramp = torch.linspace(sm_temp_min, sm_temp_max, self.step, dtype=torch.float64) ** temp_pow
        self.softmax = [v / 2 if i < temp_warmup else v for i, v in enumerate(ramp.tolist())]

    def masks(self, masked: list[Tensor]) -> list[Tensor]:
        """See `CodeSampler.masks`: 1 where the step opened a code."""
        before = [torch.ones_like(masked[0]), *masked]
        return [(a & ~b).float() for a, b in zip(before, masked, strict=False)]


class ConfidenceSampler(TrainerSampler):
    """The host's `ConfidenceSampler`: arguments as there, then those of `HostSampler`."""

    def __init__(
        self,
        sm_temp: float = 1,
        w: float = 3,
        randomize: str = "linear",
        r_temp: float = 4.5,
        sched_mode: str = "arccos",
        step: int = 12,
        *,
        sampler: str = "maskgit",
        student: Model | str | None = None,
        options: Mapping[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        super().__init__(sampler, student, options, root)
        self.step, self.schedule = self.steps_of(step), sched_mode
        self.flags = confidence_options(w, randomize, r_temp, "shifted")
        self.softmax = [sm_temp]


def install(module: ModuleType, name: str, flags: SamplerFlags, root: Path) -> None:
    """Replace the host's class `name` by ours.

    Raises:
        UserError: as `HostSampler`, for flags that do not fit.
    """
    kind: Any = {"HaltonSampler": HaltonSampler, "ConfidenceSampler": ConfidenceSampler}[name]
    options = {"sampler": flags.sampler, "student": flags.student, "options": flags.options}
    kind(**options, root=root)

    def make(*args: Any, **kwargs: Any) -> TrainerSampler:
        sampler: TrainerSampler = kind(*args, **kwargs, **options, root=root)
        return sampler

    setattr(module, name, make)
