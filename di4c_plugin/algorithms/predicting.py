"""Predictions of teacher, student and target at the positions a loss is over."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.losses.again import again
from di4c_plugin.losses.chunk import chunks_of
from di4c_plugin.losses.prediction import Formed, Hidden, Prediction
from di4c_plugin.networks.denoiser import Denoiser, HiddenDenoiser, repeated


class Places(Protocol):
    """P of the B x D positions of a batch, flat."""

    @property
    def index(self) -> Tensor:
        """Where in the B x D positions they are, (P,), int64."""
        ...

    def take(self, values: Tensor) -> Tensor:
        """Return values (N, B, D, ...) at these positions, (N, P, ...)."""
        ...


class Everywhere:
    """All positions of states (B, D)."""

    def __init__(self, active: Tensor) -> None:
        self.active = active

    @cached_property
    def index(self) -> Tensor:
        """See `Places.index`."""
        return torch.arange(self.active.numel(), device=self.active.device)

    def take(self, values: Tensor) -> Tensor:
        """See `Places.take`."""
        return values.flatten(1, 2)


class Active:
    """The active positions, for a mask (B, D).

    How many there are decides the shapes that follow, so the host must know. It is told by a copy
    that starts here, while the networks' forward passes are still to come: nothing waits for them.
    """

    def __init__(self, active: Tensor) -> None:
        self.active = active
        self._count = active.sum().to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if active.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    @cached_property
    def index(self) -> Tensor:
        """See `Places.index`."""
        if self._copied is not None:
            self._copied.synchronize()
        first = torch.argsort(self.active.flatten(), descending=True, stable=True)
        return first[: int(self._count)]

    def take(self, values: Tensor) -> Tensor:
        """See `Places.take`."""
        return values.flatten(1, 2).index_select(1, self.index)


@dataclass(frozen=True)
class States:
    """What is predicted from.

    Attributes:
        x: noisy states (1, B, D), the same for all lambda, or (N, B, D).
        t: times (B,).
        cond: labels (B,), or None.
        latent: (N, B, *latent_shape), or None for a product model.
    """

    x: Tensor
    t: Tensor
    cond: Tensor | None
    latent: Tensor | None

    @property
    def rows(self) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
        """The arguments of a `Denoiser`."""
        x, cond = self.x.flatten(0, 1), self.cond
        (t,) = repeated(len(x), self.t)
        if cond is not None:
            (cond,) = repeated(len(x), cond)
        latent = None if self.latent is None else self.latent.flatten(0, 1)
        return x, t, {"cond": cond, "latent": latent}


def has_head(denoiser: Denoiser | None) -> bool:
    """Whether a denoiser is a `HiddenDenoiser` with a head."""
    return getattr(denoiser, "head", None) is not None


def predict(
    denoiser: Denoiser,
    states: States,
    places: Places,
    process: Process,
    *,
    hidden: bool,
    revealed: bool = False,
) -> Prediction:
    """Return p_{0|t} at `places`, as hidden states and a head if `hidden`.

    `revealed` says that some of the places may be known in these states.
    """
    x, t, options = states.rows
    if not hidden:
        log_p = denoiser(x, t, **options).unflatten(0, (-1, len(states.t)))
        return Formed(places.take(log_p), _unknown(states, places, process))
    network = cast(HiddenDenoiser, denoiser)
    h = network.hidden(x, t, **options)
    return _of_hidden(network, h, states, places, revealed)


def predict_one_by_one(denoiser: Denoiser, states: States, places: Places) -> Prediction:
    """As `predict` with hidden states; the pass of each lambda is done again when differentiated.

    So the network's activations are held for one lambda at a time.
    """
    network = cast(HiddenDenoiser, denoiser)

    def hidden(one: States) -> Tensor:
        x, t, options = one.rows
        return network.hidden(x, t, **options)

    h = [again(hidden, one) for one in split(states)]
    return _of_hidden(network, torch.cat(h), states, places, False)


def split(states: States) -> list[States]:
    """Return the states of each lambda by itself."""
    if states.latent is None:
        return [states]
    count = len(states.latent)
    x = states.x.expand(count, -1, -1)
    return [
        States(x[n : n + 1], states.t, states.cond, states.latent[n : n + 1]) for n in range(count)
    ]


def _of_hidden(
    network: HiddenDenoiser, h: Tensor, states: States, places: Places, revealed: bool
) -> Hidden:
    head: Any = network.head
    t = states.t.unsqueeze(-1).expand(states.x.shape[1:])
    return Hidden(
        places.take(h.unflatten(0, (-1, len(states.t)))),
        _exact(head.weight),
        None if head.bias is None else _exact(head.bias),
        places.take(states.x),
        places.take(t.unsqueeze(0)).squeeze(0),
        network.process,
        revealed,
    )


def _exact(weight: Tensor) -> Tensor:
    """Return a parameter in fp32 or better: a loss in bf16 is none."""
    return weight if weight.dtype == torch.float64 else weight.float()


def _unknown(states: States, places: Places, process: Process) -> Tensor:
    return places.take(process.active(states.x[0]).unsqueeze(0)).squeeze(0)


def take_step(
    process: Process,
    teacher: Prediction,
    states: States,
    places: Places,
    noise: Tensor,
    u: Tensor,
    max_bytes: int,
) -> Tensor:
    """Return N samples x_u (N, B, D) of the teacher's step from x_t at t to u (B,).

    Args:
        process: with `step_by`.
        teacher: its prediction at `places`, of one lambda or of N.
        states: the teacher's, x (1, B, D).
        places: all active positions at least; the others stay as they are.
        noise: (process.noises, N, B, D).
        u: times (B,).
        max_bytes: budget for a chunk of hidden states.
    """
    n, (b, d) = noise.shape[1], states.x.shape[1:]
    if isinstance(teacher, Formed) and isinstance(places, Everywhere):
        log_q = teacher.values.unflatten(1, (b, d))
        return _step(process, log_q, states.x[0], states.t, u, noise)
    x, t, late = (
        places.take(value.expand(1, b, d)).squeeze(0)
        for value in (states.x, states.t.unsqueeze(-1), u.unsqueeze(-1))
    )
    chance = places.take(noise.flatten(0, 1)).unflatten(0, noise.shape[:2])
    drawn = [
        _step(
            process,
            teacher.log_p(part).unsqueeze(2),
            x[part].unsqueeze(-1),
            t[part],
            late[part],
            chance[:, :, part].unsqueeze(-1),
        ).squeeze(-1)
        for part in chunks_of(len(x), max(n, teacher.count), teacher.tokens, max_bytes)
    ]
    x_u = states.x.expand(n, b, d).flatten(1)
    return x_u.index_copy(1, places.index, torch.cat(drawn, 1)).unflatten(1, (b, d))


def _step(
    process: Process, log_q: Tensor, x_t: Tensor, t: Tensor, u: Tensor, noise: Tensor
) -> Tensor:
    """Return x_u (N, B, D) from log_q (1 or N, B, D, S) and noise (noises, N, B, D)."""
    n = noise.shape[1]
    if len(log_q) == 1:
        return process.step_by(noise, log_q[0], x_t, t, u)
    x_t, t, u = (value.repeat(n, *[1] * (value.ndim - 1)) for value in (x_t, t, u))
    x_u = process.step_by(noise.flatten(1, 2), log_q.flatten(0, 1), x_t, t, u)
    return x_u.unflatten(0, (n, -1))
