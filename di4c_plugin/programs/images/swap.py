"""One of our samplers, in the place of a host's own, inside the host's unmodified program.

The sampler's options are what the host asks of its own by its flags (steps, guidance, temperatures,
schedule) as far as ours has them, and what the user says on top. The network is the one that the
host has loaded, or a student of ours.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Process, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser, NetworkDenoiser
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.samplers.base import Step
from di4c_plugin.samplers.options import check_options

# Options that are models: "host" is the host's own, anything else is loaded.
PARTNERS = ("teacher", "guidance_teacher")
HOST = "host"
SHOWN = ("schedule", "temperature")  # of a process, when we say what we do
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass
class Trace:
    """What a draw leaves behind.

    Attributes:
        softmax: the factor of the logits in each step.
        wanted: the steps whose states and predictions are kept; None: all.
        step: the one under way.
        before: states at the start of each wanted step, (B, D).
        after: states at its end.
        predicted: the likeliest tokens by its first network call.
    """

    softmax: Sequence[float]
    x: Tensor
    wanted: frozenset[int] | None = None
    step: int = 0
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)

    def see(self, log_p_0: Tensor) -> None:
        """Keep the prediction of a step's first call; guidance asks with the label first."""
        if self._wants(self.step) and len(self.predicted) == len(self.after):
            self.predicted.append(log_p_0.argmax(-1))

    def follow(self, done: Step) -> None:
        """Take note of a step that has been made; a callback of samplers."""
        if self._wants(done.index):
            self.before.append(self.x)
            self.after.append(done.x)
        self.x, self.step = done.x, done.index + 1

    def _wants(self, step: int) -> bool:
        return self.wanted is None or step in self.wanted


class Watched(nn.Module):
    """A denoiser at a step's softmax temperature, under a host's autocast, seen by a trace."""

    def __init__(self, denoiser: Denoiser, trace: Trace, autocast: Autocast) -> None:
        super().__init__()
        self.denoiser, self.trace, self.autocast = denoiser, trace, autocast
        self.latent_shape: tuple[int, ...] | None = getattr(denoiser, "latent_shape", None)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`; guidance of tempered logits is tempering of guided ones."""
        with self.autocast():
            log_p_0 = self.denoiser(x_t, t, cond=cond, latent=latent)
        factor = self.trace.softmax[min(self.trace.step, len(self.trace.softmax) - 1)]
        log_p_0 = log_p_0 if factor == 1 else (factor * log_p_0).log_softmax(-1)
        self.trace.see(log_p_0)
        return log_p_0


class Ours:
    """The sampler that a user asks for, and the student.

    Args:
        flags: what the user says.
        host: the name of the host.
        root: its checkout; None: see `importing.checkout`.
        student: a model that is loaded already, in the place of `flags.student`.

    Raises:
        UserError: for an unknown sampler or options that it does not take; steps below 1; "hybrid"
            without a student; and where the student is none, or not of this host.
    """

    def __init__(
        self, flags: Flags, host: str, root: Path | None = None, student: Model | None = None
    ) -> None:
        self.name, self.host, self.root = flags.sampler, host, root
        self.options = dict(flags.options)
        self.steps: int | None = self.options.pop("steps", None)
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise UserError(f"steps must be a whole number from 1, not {self.steps!r}")
        self.draw = lookup("sampler", flags.sampler)
        self.takes = frozenset(inspect.signature(self.draw).parameters)
        own = "the host's network" if student is None else "a student"
        self.origin = flags.student or own
        if "teacher" in self.takes:
            if flags.student is None and student is None:
                raise UserError(f"sampler {self.name!r} is for a student: add --student PATH")
            self.options = {"teacher": HOST} | self.options
        check_options(self.draw, self.name, self.options)
        self.student = student
        if flags.student is not None and student is None:
            self.student = self.load(flags.student)
        if self.student is not None:
            self._check_student(self.student)

    @classmethod
    def of(
        cls,
        sampler: str,
        student: Model | str | None,
        options: Mapping[str, Any] | None,
        host: str,
        root: Path | None,
    ) -> "Ours":
        """Return what code of a user's own asks for; the student is a model or a path."""
        path = student if isinstance(student, str) else None
        model = student if isinstance(student, Model) else None
        return cls(Flags(sampler, path, options or {}), host, root, model)

    def load(self, source: str) -> Model:
        """Return the model of a file of this host, or of ours; raises UserError."""
        model: Model = lookup("host", self.host)(root=self.root and str(self.root)).load_teacher(
            source
        )
        return model

    def _check_student(self, student: Model) -> None:
        if not student.is_student:
            raise UserError(f"{self.origin} is a teacher, not a student: it has no latent")
        if student.network.kind != self.host:
            raise UserError(
                f"{self.origin} is a student of {student.network.kind!r}, not of {self.host!r}"
            )

    def denoiser(self, own: NetworkDenoiser) -> NetworkDenoiser:
        """Return the student on the device of the host's network, or that network's twin `own`.

        Raises:
            UserError: if the student has other positions or states than the host.
        """
        if self.student is None:
            return own
        found: Any = self.student.denoiser
        for name in ("side", "codes", "classes", "shape"):
            theirs, mine = getattr(own, name, None), getattr(found, name, None)
            if theirs != mine:
                raise UserError(f"the student has {name} {mine}, and this program {theirs}")
        if found.process.num_states != own.process.num_states:
            raise UserError(
                f"the student has {found.process.num_states} states, and this program "
                f"{own.process.num_states}"
            )
        return found.to(device_of(own))

    def run(
        self,
        own: NetworkDenoiser,
        x: Tensor,
        *,
        process: Process,
        steps: int,
        defaults: Mapping[str, Any],
        cond: Tensor | None = None,
        softmax: Sequence[float] = (1.0,),
        autocast: Autocast = nullcontext,
        wanted: frozenset[int] | None = None,
        verbose: bool = False,
    ) -> Trace:
        """Carry x (B, D) from the prior to data and return the trace; its x is the sample.

        Args:
            own: the host's network.
            x: states at t = 1.
            process: whose steps are made.
            steps: see `steps_of`.
            defaults: options by the host's flags, left out where the sampler has no such option.
            cond: labels (B,).
            softmax: factor of the logits in each step.
            autocast: of the network's calls.
            wanted: see `Trace`.
            verbose: show a bar, on a terminal.

        Raises:
            UserError: as the sampler.
        """
        options = {k: v for k, v in defaults.items() if k in self.takes} | self.options
        self._tell(steps, options, process)
        trace = Trace(softmax, x, wanted)
        for name in PARTNERS:
            if options.get(name) is not None:
                options[name] = Watched(self._partner(options[name], own), trace, autocast)
        denoiser = Watched(self.denoiser(own), trace, autocast)
        console = Console(stderr=True)
        hidden = not (verbose and console.is_terminal)
        with Progress(console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(self.name, total=steps)

            def follow(step: Step) -> None:
                trace.follow(step)
                bar.advance(task)

            trace.x = self.draw(
                denoiser,
                x,
                time_grid(steps, device=x.device),
                process=process,
                generator=host_generator(x.device),
                cond=cond,
                callback=follow,
                **options,
            )
        return trace

    def steps_of(self, asked: int) -> int:
        """Return the number of steps: the user's, or what the host asks for."""
        return int(self.steps or asked)

    def _partner(self, name: Any, own: NetworkDenoiser) -> Denoiser:
        if name == HOST:
            return own
        if not isinstance(name, Model):
            name = self.load(str(name))
        return name.denoiser.to(device_of(own))

    def _tell(self, steps: int, options: Mapping[str, Any], process: Process) -> None:
        kind = [process.config["name"]]
        kind += [f"{k}={process.config[k]}" for k in SHOWN if k in process.config]
        named = {k: "a model" if isinstance(v, Model) else v for k, v in options.items()}
        listed = [f"{name}={value}" for name, value in sorted(named.items())]
        start = f"sampler {self.name}: {self.origin}, {steps} steps, process {' '.join(kind)}"
        announce_once(", ".join([start, *listed]))


def device_of(denoiser: nn.Module) -> torch.device:
    """Return the device of a network's weights."""
    return next(denoiser.parameters()).device


def host_generator(device: torch.device) -> torch.Generator:
    """Return a generator that the host's own seed decides, another one on every process.

    One number is drawn from torch's global generator, as the host's own sampler draws from it.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    drawn = int(torch.randint(2**62, ()))
    state = np.random.SeedSequence(drawn, spawn_key=(rank,)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
