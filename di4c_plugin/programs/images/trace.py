"""Records the states and predictions of sampling steps, which a host's program shows."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from di4c_plugin.networks.denoiser import Denoiser
from di4c_plugin.samplers import Step

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass
class Trace:
    """The record of one sampling run.

    Attributes:
        x: the current states, in the end the samples, (B, D).
        shown: the steps whose states and predictions are kept; None: all.
        step: the current step.
        before: states at the start of each shown step, (B, D).
        after: states at the end of each shown step, (B, D).
        predicted: the likeliest tokens by the first network call of each shown step, (B, D).
    """

    x: Tensor
    shown: Collection[int] | None = None
    step: int = 0
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)

    def on_prediction(self, log_p_0: Tensor) -> None:
        """Keep the prediction of a step's first call, in guidance the one with the label."""
        if self._shows(self.step) and len(self.predicted) == len(self.after):
            self.predicted.append(log_p_0.argmax(-1))

    def on_step(self, done: Step) -> None:
        """Record a finished step; a callback of samplers."""
        if self._shows(done.index):
            self.before.append(self.x)
            self.after.append(done.x)
        self.x, self.step = done.x, done.index + 1

    def _shows(self, step: int) -> bool:
        return self.shown is None or step in self.shown


class Traced(nn.Module):
    """A denoiser with a host's autocast and softmax temperature, whose calls a trace records.

    Args:
        denoiser: teacher or student.
        trace: knows the current step.
        softmax: factor of the logits in each step; the last one for all later steps.
        autocast: of each call.
    """

    def __init__(
        self, denoiser: Denoiser, trace: Trace, softmax: Sequence[float], autocast: Autocast
    ) -> None:
        super().__init__()
        self.denoiser, self.trace = denoiser, trace
        self.softmax, self.autocast = softmax, autocast
        self.latent_shape: tuple[int, ...] | None = getattr(denoiser, "latent_shape", None)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`; tempering and guidance commute."""
        with self.autocast():
            log_p_0 = self.denoiser(x_t, t, cond=cond, latent=latent)
        factor = self.softmax[min(self.trace.step, len(self.softmax) - 1)]
        log_p_0 = log_p_0 if factor == 1 else (factor * log_p_0).log_softmax(-1)
        self.trace.on_prediction(log_p_0)
        return log_p_0
