"""One of our samplers with a host's interface, inside the host's unmodified program.

The sampler's options come from the host's flags (steps, guidance, temperatures, schedule), if ours
has them, and from the user, who takes precedence. The network is the host's, or a student.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from di4c_plugin.announce import announce_once, is_quiet
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Process, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.images.trace import Autocast, Trace, Traced
from di4c_plugin.samplers import Step, sampler_named, sampler_options
from di4c_plugin.samplers.checks import check_drawn

# Options that are models: "host" is the host's network, anything else is loaded.
MODELS = ("teacher", "guidance_teacher")
HOSTS_OWN = "host"
ANNOUNCED = ("schedule", "temperature")  # options of a process in the announcement


@dataclass(frozen=True)
class Request:
    """One call of a host's sampler, in our terms.

    Attributes:
        network: the host's network; `process` is the process of its training.
        x: states at t = 1, (B, D): its tokens, the mask where unknown.
        steps: network calls per sample, see `HostSampler.steps_of`.
        process: the process to sample.
        options: of our samplers, from the host's flags; those that a sampler lacks are ignored.
        cond: class labels (B,).
        softmax: factor of the logits in each step.
        autocast: of the network's calls.
        shown: see `Trace`.
        verbose: show a bar, on a terminal.
    """

    network: Any
    x: Tensor
    steps: int
    process: Process
    options: Mapping[str, Any] = field(default_factory=dict)
    cond: Tensor | None = None
    softmax: Sequence[float] = (1.0,)
    autocast: Autocast = nullcontext
    shown: Collection[int] | None = None
    verbose: bool = False


class HostSampler(ABC):
    """A sampler of ours that a host's evaluation calls as its own.

    A subclass sets the host's name and implements `request` and `result` with the arguments of the
    host's call: `sampler(*arguments)` is `result(drawn, *arguments)`.

    Args:
        sampler: a registered name.
        student: a model, or a path; None: the host's network.
        options: of the sampler, over those from the host's flags; may include `steps`.
        root: the host's checkout; None: see `importing.checkout`.

    Raises:
        UserError: for an unknown sampler or option, steps below 1, "hybrid" without a student, and
            a model that is not a student, or not of this host.
    """

    host: ClassVar[str]

    @abstractmethod
    def request(self, *args: Any, **kwargs: Any) -> Request:
        """Return the host's request; raises UserError for what our samplers cannot do."""

    @abstractmethod
    def result(self, drawn: Trace, *args: Any, **kwargs: Any) -> Any:
        """Return what the host's own sampler would."""

    def __init__(
        self,
        sampler: str,
        student: Model | str | None = None,
        options: Mapping[str, Any] | None = None,
        root: Path | None = None,
    ) -> None:
        self.name, self.root = sampler, root
        self.options = dict(options or {})
        self.steps: int | None = self.options.pop("steps", None)
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise UserError(f"steps must be a whole number from 1, not {self.steps!r}")
        self.draw = sampler_named(sampler)
        if "teacher" in self.draw.__signature__.parameters:
            if student is None:
                raise UserError(f"sampler {sampler!r} is for a student: add --student PATH")
            self.options = {"teacher": HOSTS_OWN} | self.options
        models = self.options.keys() & set(MODELS)  # still by name
        checked = {key: value for key, value in self.options.items() if key not in models}
        self.options |= sampler_options(sampler, checked, later=models)
        self.origin = "the host's network" if student is None else "a student"
        self.student: Model | None = None
        if student is not None:
            if isinstance(student, str):
                self.origin, student = student, load(self.host, student, root)
            self.student = student
            self._check_student(student)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw samples for the host's program; raises UserError as `request` and the sampler."""
        return self.result(self.run(self.request(*args, **kwargs)), *args, **kwargs)

    def steps_of(self, requested: int) -> int:
        """Return the number of steps: the user's, else the host's."""
        return int(self.steps or requested)

    def denoiser(self, network: Any) -> Any:
        """Return the student, or the host's network.

        Raises:
            UserError: if the student has other positions or states than the host.
        """
        if self.student is None:
            return network
        student: Any = self.student.denoiser
        for name in ("side", "codes", "classes", "shape"):
            theirs, mine = getattr(network, name, None), getattr(student, name, None)
            if theirs != mine:
                raise UserError(f"the student has {name} {mine}, and this program {theirs}")
        if student.process.num_states != network.process.num_states:
            raise UserError(
                f"the student has {student.process.num_states} states, and this program "
                f"{network.process.num_states}"
            )
        return student

    def run(self, request: Request) -> Trace:
        """Draw samples and return their trace, whose x are the samples.

        Raises:
            UserError: as the sampler.
        """
        known = self.draw.__signature__.parameters
        options = {k: v for k, v in request.options.items() if k in known} | self.options
        self._announce(request, options)
        trace, device, console = (
            Trace(request.x, request.shown),
            request.x.device,
            Console(stderr=True, quiet=is_quiet()),
        )

        denoiser = self.denoiser(request.network)
        if self.student is not None:
            denoiser = denoiser.to(device)

        def traced(model: Denoiser) -> Traced:
            return Traced(model, trace, request.softmax, request.autocast)

        for name in MODELS:
            if options.get(name) is not None:
                options[name] = traced(self._other(options[name], request))
        hidden = not (request.verbose and console.is_terminal)
        with Progress(console=console, transient=True, disable=hidden) as bar:
            task = bar.add_task(self.name, total=request.steps)

            def on_step(step: Step) -> None:
                trace.on_step(step)
                bar.advance(task)

            x = self.draw(
                traced(denoiser),
                request.x,
                time_grid(request.steps, device=device),
                process=request.process,
                generator=host_generator(device),
                cond=request.cond,
                callback=on_step,
                **options,
            )
        trace.x = check_drawn(x, request.process)
        return trace

    def _check_student(self, student: Model) -> None:
        if not student.is_student:
            raise UserError(f"{self.origin} is a teacher, not a student: it has no latent")
        kind = lookup("host", self.host).family.name
        if student.network.kind != kind:
            raise UserError(
                f"{self.origin} is a student of {student.network.kind!r}, not of {kind!r}"
            )

    def _other(self, model: Any, request: Request) -> Denoiser:
        """Return another model that the sampler uses, on the device of the states."""
        if model == HOSTS_OWN:
            return request.network
        if not isinstance(model, Model):
            model = load(self.host, str(model), self.root)
        return model.denoiser.to(request.x.device)

    def _announce(self, request: Request, options: Mapping[str, Any]) -> None:
        config = request.process.config
        kind = [config["name"], *(f"{k}={config[k]}" for k in ANNOUNCED if k in config)]
        values = {k: "a model" if isinstance(v, Model) else v for k, v in options.items()}
        start = f"sampler {self.name}: {self.origin}, {request.steps} steps"
        listed = [f"{name}={value}" for name, value in sorted(values.items())]
        announce_once(", ".join([start, f"process {' '.join(kind)}", *listed]))


@lru_cache(maxsize=3)  # programs make a new sampler for each call
def load(host: str, source: str, root: Path | None) -> Model:
    """Return the model in a file of the host or of ours; raises UserError."""
    kind = lookup("host", host)
    takes_root = root is not None and "root" in kind.options
    model: Model = kind(**{"root": str(root)} if takes_root else {}).load_teacher(source)
    return model


def device_of(denoiser: nn.Module) -> torch.device:
    """Return the device of a network's weights."""
    return next(denoiser.parameters()).device


def host_generator(device: torch.device) -> torch.Generator:
    """Return a generator seeded from torch's global one, which the host seeds, and the rank."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    drawn = int(torch.randint(2**62, ()))
    state = np.random.SeedSequence(drawn, spawn_key=(rank,)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))
