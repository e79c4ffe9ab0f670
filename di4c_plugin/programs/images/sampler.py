"""One of our samplers with a host's interface, inside the host's unmodified program.

The sampler's options are what the host asks of its own by its flags (steps, guidance, temperatures,
schedule) as far as ours has them, and what the user says on top. The network is the one that the
host has loaded, or a student of ours.
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

# Options that are models: "host" is the host's own, anything else is loaded.
MODELS = ("teacher", "guidance_teacher")
HOSTS_OWN = "host"
ANNOUNCED = ("schedule", "temperature")  # of a process, when we say what we do


@dataclass(frozen=True)
class Request:
    """One call of a host's sampler, in our terms.

    Attributes:
        network: the host's network, with the process that it is trained for as `process`.
        x: states at t = 1, (B, D): its tokens, the mask where nothing is known.
        steps: network calls a sample, see `HostSampler.steps_of`.
        process: whose steps are made.
        options: of our samplers by the host's flags, left out where a sampler has no such option.
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

    A host says its name and fills `request` and `result`, with the arguments that its program
    calls a sampler with: `sampler(*arguments)` is `result(drawn, *arguments)`.

    Args:
        sampler: a registered one.
        student: a model, or a path; None: the host's network.
        options: of the sampler, over those by the host's flags; `steps` too.
        root: the host's checkout; None: as `importing.checkout` finds it.

    Raises:
        UserError: for an unknown sampler or options that it does not take; steps below 1; "hybrid"
            without a student; and where the student is none, or not of this host.
    """

    host: ClassVar[str]
    kind: ClassVar[str | None] = None  # of a student's network; None: as the host is called

    @abstractmethod
    def request(self, *args: Any, **kwargs: Any) -> Request:
        """Return what the host asks for; raises UserError for what our samplers do not do."""

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
        partners = self.options.keys() & set(MODELS)  # still by name
        said = {key: value for key, value in self.options.items() if key not in partners}
        self.options |= sampler_options(sampler, said, later=partners)
        self.origin = "the host's network" if student is None else "a student"
        self.student: Model | None = None
        if student is not None:
            if isinstance(student, str):
                self.origin, student = student, load(self.host, student, root)
            self.student = student
            self._check_student(student)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw, as the host's program asks; raises UserError as `request` and the sampler."""
        return self.result(self.run(self.request(*args, **kwargs)), *args, **kwargs)

    def steps_of(self, asked: int) -> int:
        """Return the number of steps: the user's, or what the host asks for."""
        return int(self.steps or asked)

    def denoiser(self, network: Any) -> Any:
        """Return the student, or the host's network.

        Raises:
            UserError: if the student has other positions or states than the host.
        """
        if self.student is None:
            return network
        found: Any = self.student.denoiser
        for name in ("side", "codes", "classes", "shape"):
            theirs, mine = getattr(network, name, None), getattr(found, name, None)
            if theirs != mine:
                raise UserError(f"the student has {name} {mine}, and this program {theirs}")
        if found.process.num_states != network.process.num_states:
            raise UserError(
                f"the student has {found.process.num_states} states, and this program "
                f"{network.process.num_states}"
            )
        return found

    def run(self, request: Request) -> Trace:
        """Carry states from the prior to data and return the trace; its x is the sample.

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
        kind = self.kind or self.host
        if student.network.kind != kind:
            raise UserError(
                f"{self.origin} is a student of {student.network.kind!r}, not of {kind!r}"
            )

    def _other(self, model: Any, request: Request) -> Denoiser:
        """Return a further model of the sampler, on the device of the states."""
        if model == HOSTS_OWN:
            return request.network
        if not isinstance(model, Model):
            model = load(self.host, str(model), self.root)
        return model.denoiser.to(request.x.device)

    def _announce(self, request: Request, options: Mapping[str, Any]) -> None:
        config = request.process.config
        kind = [config["name"], *(f"{k}={config[k]}" for k in ANNOUNCED if k in config)]
        named = {k: "a model" if isinstance(v, Model) else v for k, v in options.items()}
        start = f"sampler {self.name}: {self.origin}, {request.steps} steps"
        listed = [f"{name}={value}" for name, value in sorted(named.items())]
        announce_once(", ".join([start, f"process {' '.join(kind)}", *listed]))


@lru_cache(maxsize=3)  # programs make their sampler anew for each call
def load(host: str, source: str, root: Path | None) -> Model:
    """Return the model of a file of a host, or of ours; raises UserError."""
    kind = lookup("host", host)
    rooted = root is not None and "root" in kind.options
    found: Model = kind(**{"root": str(root)} if rooted else {}).load_teacher(source)
    return found


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
