"""Our samplers with the interface of Halton-MaskGIT's: constructors, call and results.

    sampler = HaltonSampler(w=2, step=8)         # or ConfidenceSampler, or sampler="di4c"
    x, codes, masks = sampler(trainer, nb_sample=8, labels=labels)

The network is the trainer's, its average where it keeps one, or a student. Two things differ from
the host's: its HaltonSampler rounds down what is open after a step, ours to the nearest; and its
ConfidenceSampler draws anew, in every step, what it has opened before, ours keeps it. Neither do we
draw the mask, which the host's may, nor from the top k only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.families.grid import GridDenoiser
from di4c_plugin.families.halton import HaltonNetworks
from di4c_plugin.programs.images.swap import Ours
from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.images.swap_grid import Asked, Codes, draw_codes, noise_of
from di4c_plugin.programs.images.swap_twin import Twins, tensors_of

HOST = "halton_maskgit"


class GridSampler(ABC):
    """What both samplers do.

    Args:
        sampler: one of ours.
        step: network calls a sample.
        host_options: options of our samplers by the host's flags.
        schedule: the host's word.
        softmax: factor of the logits in each step.
        student: a model or a path; None: the trainer's network.
        options: of the sampler, in the place of the host's flags; `steps` too.
        root: the host's checkout; None: see `importing.checkout`.

    Raises:
        UserError: as `Ours`.
    """

    def __init__(
        self,
        sampler: str,
        step: int,
        host_options: Mapping[str, Any],
        *,
        schedule: str,
        student: Model | str | None,
        options: Mapping[str, Any] | None,
        root: Path | None,
    ) -> None:
        self.ours = Ours.of(sampler, student, options, HOST, root)
        self.step = self.ours.steps_of(step)
        self.host_options, self.schedule = host_options, schedule
        self.twins = Twins(HaltonNetworks(), root)

    @abstractmethod
    def softmax(self) -> list[float]:
        """Return the factor of the logits in each step."""

    @abstractmethod
    def masks(self, drawn: Codes) -> list[Tensor]:
        """Return what the host's sampler returns of each step beside the codes, (n, h, w)."""

    def __str__(self) -> str:
        """Name the sampler; the host prints it with its results."""
        return f"Scheduler: di4c {self.ours.name}, Steps: {self.step}, of {self.ours.origin}"

    def __call__(
        self,
        trainer: Any,
        init_code: Tensor | None = None,
        nb_sample: int = 50,
        labels: Tensor | None = None,
        verbose: bool = True,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return pictures (n, 3, H, W) in [-1, 1], and for each step codes and masks (n, h, w).

        Raises:
            UserError: as `draw_codes`.
        """
        asked = Asked(
            count=nb_sample,
            steps=self.step,
            mask=trainer.args.mask_value,
            options=self.host_options,
            schedule=self.schedule,
            softmax=self.softmax(),
            codes=init_code,
            labels=labels,
        )
        own = network_of(self.twins, trainer)
        autocast = trainer.autocast
        drawn = draw_codes(self.ours, own, asked, autocast=lambda: autocast, verbose=verbose)
        with torch.no_grad():
            pictures = trainer.ae.decode_code(drawn.x)
        return pictures.clamp(-1, 1), drawn.predicted, self.masks(drawn)


class HaltonSampler(GridSampler):
    """The host's `HaltonSampler`: arguments as there, then those of `GridSampler`.

    `sched_pow` is without effect there, too.
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
        self.temperatures = (sm_temp_min, sm_temp_max, temp_pow, temp_warmup)
        host_options = {"guidance": w, "guidance_ramp": "constant", "randomize": randomize}
        super().__init__(
            sampler,
            step,
            host_options,
            schedule="arccos",  # whatever the training's is
            student=student,
            options=options,
            root=root,
        )

    def softmax(self) -> list[float]:
        """See `GridSampler.softmax`: from min to max, halved in the first `temp_warmup` steps."""
        first, last, power, warmup = self.temperatures
        even = torch.linspace(first, last, self.step, dtype=torch.float64) ** power
        return [v * (0.5 if i < warmup else 1) for i, v in enumerate(even.tolist())]

    def masks(self, drawn: Codes) -> list[Tensor]:
        """See `GridSampler.masks`: 1 where the step has opened a code."""
        before = [torch.ones_like(drawn.masked[0]), *drawn.masked]
        return [(a & ~b).float() for a, b in zip(before, drawn.masked, strict=False)]


class ConfidenceSampler(GridSampler):
    """The host's `ConfidenceSampler`: arguments as there, then those of `GridSampler`."""

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
        self.temperature = sm_temp
        host_options = {
            "guidance": w,
            "guidance_ramp": "linear",
            "temperature": noise_of(randomize, r_temp),
            "counts": "shifted",
        }
        super().__init__(
            sampler,
            step,
            host_options,
            schedule=sched_mode,
            student=student,
            options=options,
            root=root,
        )

    def softmax(self) -> list[float]:
        """See `GridSampler.softmax`: one for all steps."""
        return [self.temperature]

    def masks(self, drawn: Codes) -> list[Tensor]:
        """See `GridSampler.masks`: 1 where nothing is known after the step."""
        return [mask.float() for mask in drawn.masked]


def network_of(twins: Twins, trainer: Any) -> GridDenoiser:
    """Return the network of a trainer as a denoiser: the average where it is asked for."""
    averaged = getattr(trainer.args, "use_ema", False)
    network = trainer.ema if averaged else trainer.vit
    heads = trainer.transformer_size(trainer.args.vit_size)[2]
    denoiser: Any = twins.of(network, tensors_of(network), heads=heads)
    return denoiser


def install(module: ModuleType, name: str, flags: Flags, ours: Ours) -> None:
    """Put our class in the place of the host's class `name`; `ours` is made of the flags."""
    kind: Any = {"HaltonSampler": HaltonSampler, "ConfidenceSampler": ConfidenceSampler}[name]
    options = {"sampler": ours.name, "options": flags.options, "root": ours.root}

    def make(*args: Any, **kwargs: Any) -> GridSampler:
        made: GridSampler = kind(*args, **kwargs, **options, student=ours.student)
        made.ours.origin = ours.origin
        return made

    setattr(module, name, make)
