"""The protocol of every teacher and student, and the wrapper that gives it to a network.

A denoiser predicts each clean token given the whole noisy sequence: a product model
p_{0|t}(x_0 | x_t) = prod_d p^d. A student also takes a latent and is a mixture of product models,
p^theta = E_lambda[prod_d p^{theta, d}(. ; lambda)] (Di4C, arXiv 2410.08709, "mixture" models).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import Process
from di4c_plugin.networks.attach import Head, head_of, latent_shape

NO_LABEL = -1  # among class labels: none, for unconditional prediction


class Denoiser(Protocol):
    """Callable log p_{0|t}."""

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Return log p_{0|t}(. | x_t), shape (B, D, S), fp32 or better, normalised over S.

        Args:
            x_t: noisy states, shape (B, D), int64.
            t: times, shape (B,), float64.
            cond: class labels, shape (B,), int64, or None for unconditional prediction.
            latent: lambda, shape (B, *latent_shape), for a student; None for a product model.
                With n B rows there are n for each x_t, lambda-major (row n B + b is the n-th of
                example b), and the result has n B rows as well.
        """
        ...


class HiddenDenoiser(Denoiser, Protocol):
    """A denoiser whose logits, before SUBS, are a linear map of hidden states: optional.

    Losses then need no tensor of (N, D, S); see `di4c_plugin.losses`.
    """

    process: Process

    @property
    def head(self) -> nn.Linear | None:
        """The map from hidden states (..., H) to logits (..., S); None where there is none."""
        ...

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Return what `head` would receive, (B, D, H), for arguments as of `Denoiser.__call__`."""
        ...


class NetworkDenoiser(nn.Module):
    """A network as a `Denoiser` of `process`, with the head that `attach.exact_head` gave it.

    Base of all denoisers by a network; subclasses override how it is called, in `logits`.
    """

    def __init__(self, network: nn.Module, process: Process) -> None:
        super().__init__()
        self.network = network
        self.process = process

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """The shape of one lambda; None for a product model."""
        return latent_shape(self.network)

    @property
    def head(self) -> Head | None:
        """See `HiddenDenoiser.head`."""
        return head_of(self.network)

    def logits(self, x_t: Tensor, t: Tensor, cond: Tensor | None, latent: Tensor | None) -> Tensor:
        """Return the network's logits (B, D, S) for arguments as of `Denoiser.__call__`.

        Always one call of the whole network, also for `hidden`, where the head is skipped.
        """
        return self.network(x_t, t, cond=cond, latent=latent)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        logits = self.logits(x_t, t, cond, latent)
        x_t, t = repeated(len(logits), x_t, t)
        return normalise(logits, x_t, t, self.process)

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        assert self.head is not None, "only networks with a head have hidden states"
        with self.head.skipping():
            return self.logits(x_t, t, cond, latent)


def repeated(rows: int, *values: Tensor) -> tuple[Tensor, ...]:
    """Repeat each of `values` (B, ...) to `rows` rows, lambda-major."""
    return tuple(
        value if len(value) == rows else value.repeat(rows // len(value), *[1] * (value.ndim - 1))
        for value in values
    )


def normalise(logits: Tensor, x_t: Tensor, t: Tensor, process: Process) -> Tensor:
    """Return log p_{0|t} from a network's logits, both (B, D, S), in fp32 or better.

    For masked diffusion this is MDLM's SUBS: the mask is impossible, revealed tokens are certain.
    For uniform-state diffusion see `Uniform`.
    """
    # Under autocast the logits may be bf16; sums over positions need fp32.
    logits = process.restrict(logits if logits.dtype == torch.float64 else logits.float())
    logits = process.with_evidence(logits, x_t, t)
    return process.carry_over(torch.log_softmax(logits, -1), x_t)
