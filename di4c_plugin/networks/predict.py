"""Predictions of denoisers at the positions of a loss."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.attach import Head, whole
from di4c_plugin.networks.denoiser import Denoiser, HiddenDenoiser, repeated
from di4c_plugin.networks.predictions import Formed, Hidden, Prediction
from di4c_plugin.networks.recompute import recomputed


class Positions(Protocol):
    """P of the B x D positions of a batch, flat."""

    @property
    def index(self) -> Tensor:
        """Their indices among the B x D positions, (P,), int64."""
        ...

    def take(self, values: Tensor) -> Tensor:
        """Return values (N, B, D, ...) at these positions, (N, P, ...)."""
        ...


class AllPositions:
    """All positions of states (B, D)."""

    def __init__(self, active: Tensor) -> None:
        self.active = active

    @cached_property
    def index(self) -> Tensor:
        """See `Positions.index`."""
        return torch.arange(self.active.numel(), device=self.active.device)

    def take(self, values: Tensor) -> Tensor:
        """See `Positions.take`."""
        return values.flatten(1, 2)


class ActivePositions:
    """The active positions, for a mask (B, D).

    Their number decides later shapes, so the host must know it. The copy to the host starts here,
    before the networks' forward passes, so that nothing waits for these.
    """

    def __init__(self, active: Tensor) -> None:
        self.active = active
        self._count = active.sum().to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if active.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    @cached_property
    def index(self) -> Tensor:
        """See `Positions.index`."""
        if self._copied is not None:
            self._copied.synchronize()
        order = torch.argsort(self.active.flatten(), descending=True, stable=True)
        return order[: int(self._count)]

    def take(self, values: Tensor) -> Tensor:
        """See `Positions.take`."""
        return values.flatten(1, 2).index_select(1, self.index)

    def within(self, others: "ActivePositions") -> Tensor:
        """Return the indices of these positions among others that include them, (P,), int64."""
        return torch.searchsorted(others.index, self.index)


@dataclass(frozen=True)
class States:
    """The inputs of a prediction.

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
    """Return whether a denoiser is a `HiddenDenoiser` with a head."""
    return getattr(denoiser, "head", None) is not None


def predict(
    denoiser: Denoiser,
    states: States,
    positions: Positions,
    process: Process,
    *,
    hidden: bool,
    revealed: bool = False,
) -> Prediction:
    """Return p_{0|t} at `positions`, as hidden states and a head if `hidden`.

    With `revealed`, some of the positions may be known in these states.
    """
    x, t, options = states.rows
    if not hidden:
        log_p = denoiser(x, t, **options).unflatten(0, (-1, len(states.t)))
        return Formed(positions.take(log_p), _unknown(states, positions, process))
    network = cast(HiddenDenoiser, denoiser)
    h = network.hidden(x, t, **options)
    return _of_hidden(network, h, states, positions, revealed)


def predict_one_by_one(denoiser: Denoiser, states: States, positions: Positions) -> Prediction:
    """As `predict` with hidden states; the backward pass recomputes that of each lambda.

    So the network's activations are in memory for one lambda at a time.
    """
    network = cast(HiddenDenoiser, denoiser)

    def hidden(single: States) -> Tensor:
        x, t, options = single.rows
        return network.hidden(x, t, **options)

    h = [recomputed(hidden, single) for single in split(states)]
    return _of_hidden(network, torch.cat(h), states, positions, False)


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
    network: HiddenDenoiser, h: Tensor, states: States, positions: Positions, revealed: bool
) -> Hidden:
    head: Any = network.head
    t = states.t.unsqueeze(-1).expand(states.x.shape[1:])
    return Hidden(
        positions.take(h.unflatten(0, (-1, len(states.t)))),
        *_exact(head),
        positions.take(states.x),
        positions.take(t.unsqueeze(0)).squeeze(0),
        network.process,
        revealed,
    )


def _exact(head: Any) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a head in fp32 or better: a loss needs that precision."""
    if isinstance(head, Head):
        return head.exact()
    weight, bias = whole(head.weight), None if head.bias is None else whole(head.bias)
    exact = weight.dtype == torch.float64
    return (weight, bias) if exact else (weight.float(), None if bias is None else bias.float())


def _unknown(states: States, positions: Positions, process: Process) -> Tensor:
    return positions.take(process.active(states.x[0]).unsqueeze(0)).squeeze(0)
