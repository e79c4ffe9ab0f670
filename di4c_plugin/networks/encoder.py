r"""An encoder q(lambda | x_0, x_t) of a student's latent, as variational autoencoders have.

With z = Phi^{-1}(lambda), standard normal under the prior, q is a Gaussian of independent
coordinates. The network is the built-in transformer over pairs of tokens, small and from random
weights: it never samples, and so need not be of the student's family. Ours; its bound is that of
importance-weighted autoencoders (Burda et al. 2015, arXiv 1509.00519).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser, NetworkDenoiser
from di4c_plugin.networks.transformer import Transformer, TransformerConfig

HEAD_SIZE = 32
LOG_VARIANCES = (-10.0, 4.0)


@dataclass(frozen=True)
class Posterior:
    """A Gaussian of z = Phi^{-1}(lambda) for each of R examples: (R, *latent_shape) each."""

    mean: Tensor
    log_variance: Tensor

    def at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return K draws, from standard normal noise (K, R, *latent_shape).

        Returns:
            lambda, (K, R, *latent_shape), differentiable in mean and log-variance, and
            log p(z) - log q(z), (K, R), float64.
        """
        z = self.mean + (self.log_variance / 2).exp() * noise
        log_weight = (noise.square() + self.log_variance - z.square()).double() / 2
        return torch.special.ndtr(z), log_weight.flatten(2).sum(-1)

    def divergence(self) -> Tensor:
        """Return KL(q || p) of each example, (R,), in nats, float64."""
        mean, log_variance = self.mean.double(), self.log_variance.double()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
        return kl.flatten(1).sum(-1)


class Encoder(NetworkDenoiser):
    """The network of q, with the call of a `Denoiser`.

    Args:
        process: of the student.
        positions: D.
        latent_shape: of the student's lambda: (D, k), one for each position, or (k,), whose mean
            and log-variance are means over positions.
        hidden_size: of the residual stream; a multiple of 32.
        num_blocks: of the transformer.

    Raises:
        UserError: for a latent of another shape.
    """

    def __init__(
        self,
        process: Process,
        positions: int,
        latent_shape: tuple[int, ...],
        *,
        hidden_size: int = 128,
        num_blocks: int = 3,
    ) -> None:
        if len(latent_shape) != 1 and latent_shape[:-1] != (positions,):
            raise UserError(
                "an encoder is for one λ for each position, or for all of them: for mask_noise or "
                f"token, not for a latent of {list(latent_shape)} and {positions} positions"
            )
        # Patches of 2 x 1: clean and noisy token share a row of the stream, mean and log-variance
        # come out of it.
        config = TransformerConfig(
            num_tokens=latent_shape[-1],
            num_states=process.num_states,
            grid=(2, positions),
            patch=(2, 1),
            hidden_size=hidden_size,
            embedding_size=HEAD_SIZE,
            num_blocks=num_blocks,
            num_heads=max(1, hidden_size // HEAD_SIZE),
        )
        super().__init__(Transformer(config), process)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """Return mean and log-variance (B, 2 D, k) from clean and noisy tokens (B, 2 D)."""
        moments: Tensor = self.network(x_t, t)
        return moments


def new_encoder(student: Any, positions: int, **sizes: int) -> Encoder:
    """Return the encoder of a student's latent, with random weights; errors as `Encoder`."""
    return Encoder(student.process, positions, student.latent_shape, **sizes)


def encode(
    encoder: Denoiser, x_0: Tensor, x_t: Tensor, t: Tensor, latent_shape: tuple[int, ...]
) -> Posterior:
    """Return q for clean and noisy tokens (R, D) at times t (R,), the latent being the student's.

    At positions that x_t shows q is the prior: the clean token adds no information there.
    """
    network: Any = encoder
    process, positions = network.process, network.network.config.grid[1]
    more = (0, positions - x_t.shape[1])
    tokens = torch.cat([pad(x, more) for x in (x_0, x_t)], 1)
    moments = encoder(tokens, t).unflatten(1, (2, -1))
    exact = moments if moments.dtype == torch.float64 else moments.float()
    mean, log_variance = exact[:, 0], exact[:, 1].clamp(*LOG_VARIANCES)
    if len(latent_shape) == 1:
        return Posterior(mean.mean(1), log_variance.mean(1))
    active = pad(process.active(x_t), more).unsqueeze(-1)
    return Posterior(mean.where(active, 0), log_variance.where(active, 0))
