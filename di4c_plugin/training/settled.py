"""A network without its dropout while it is a target. Tests: tests/training/test_settled.py."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from di4c_plugin.models import NetworkDenoiser


class Settled(nn.Module):
    """A denoiser in eval mode at every call, whatever mode its network is in between.

    Where gradients stop, the student itself may be the target, which should not be noisy (the
    official code for CIFAR-10 leaves dropout on there). No submodule: nobody trains it twice.
    """

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        self._denoiser = (denoiser,)
        self.latent_shape, self.process = denoiser.latent_shape, denoiser.process

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        (denoiser,) = self._denoiser
        with evaluating(denoiser):
            log_p_0: Tensor = denoiser(x_t, t, cond=cond, latent=latent)
        return log_p_0

    @property
    def head(self) -> nn.Linear | None:
        """See `HiddenDenoiser.head`."""
        return self._denoiser[0].head

    def hidden(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `HiddenDenoiser.hidden`."""
        (denoiser,) = self._denoiser
        with evaluating(denoiser):
            return denoiser.hidden(x_t, t, cond=cond, latent=latent)


def settled(denoiser: NetworkDenoiser) -> NetworkDenoiser | Settled:
    """Return the denoiser for use as a target: itself, where it has no dropout."""
    return Settled(denoiser) if any(map(_drops, denoiser.modules())) else denoiser


def _drops(module: nn.Module) -> bool:
    # nn.Dropout has p, attention modules a number called dropout.
    shares = (getattr(module, name, None) for name in ("p", "dropout"))
    return any(isinstance(share, float) and share > 0 for share in shares)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and each part's flag back afterwards."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
