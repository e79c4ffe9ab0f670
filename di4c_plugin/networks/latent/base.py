"""How a latent lambda enters a network: one interface with four doors.

An injector is part of the student's network. The network calls each door, in this order, and an
injector overrides those it uses: `on_embedding` (positions, before patches are formed),
`on_sequence` (the residual stream), `on_norm` (each normalised input) and `on_output`.
A latent that enters late sees the last blocks as if they were the whole network: the residual
stream before them is their embedding. `di4c_plugin.networks.latent.entry` calls the doors.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion.categorical import uniform
from di4c_plugin.errors import UserError


class Sizes(Protocol):
    """The sizes of a network that its injector depends on."""

    @property
    def hidden_size(self) -> int:
        """H, the width of the residual stream."""

    @property
    def embedding_size(self) -> int:
        """E, the width of a single position's embedding."""

    @property
    def embedding_std(self) -> float:
        """Standard deviation of an embedding's coordinates when the network was made."""

    @property
    def positions(self) -> int:
        """D."""

    @property
    def length(self) -> int:
        """L, the rows of the residual stream: D without patches."""

    @property
    def num_norms(self) -> int:
        """The number of normalised inputs for `on_norm`: two for each block, and the last."""


@dataclass(frozen=True)
class KnownSizes:
    """Sizes as plain values."""

    hidden_size: int
    embedding_size: int
    embedding_std: float
    positions: int
    length: int
    num_norms: int


class LatentInjector(nn.Module):
    """The identity at every door; base of all injectors, built as `Injector(sizes, **options)`.

    lambda ~ U[0, 1)^latent_shape for every injector.

    Attributes:
        latent_shape: of one lambda.
        blocks: number of the last blocks that the latent enters; None for all of them, and then it
            may enter the embeddings. `new_injector` sets it, and passes the sizes of these blocks.
    """

    latent_shape: tuple[int, ...] = ()
    blocks: int | None = None

    def encode(self, latent: Tensor) -> Tensor:
        """Map lambda (B, *latent_shape) to the code for the other doors; once for each pass."""
        return latent

    def encode_first(self, latent: Tensor, length: int) -> Tensor:
        """Return the code for a sequence shorter than the network's, `length` positions.

        A latent of each position encodes only these.
        """
        return self.encode(latent)

    def on_embedding(self, e: Tensor, code: Tensor, active: Tensor) -> Tensor:
        """Change the embeddings e (B, D, E) of positions; active (B, D) marks the unknown ones.

        With `blocks`, e is the residual stream (B, L, H) before the first of them.
        """
        return e

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        """Change the residual stream h (B, L, H) before the first block the latent enters."""
        return h

    def on_norm(self, h: Tensor, code: Tensor, layer: int) -> Tensor:
        """Change the normalised input h (B, L, H) of sub-layer `layer` (two a block).

        Counted from the first block the latent enters.
        """
        return h

    def on_output(self, h: Tensor) -> Tensor:
        """Undo after the last block what `on_sequence` did to the shape of h."""
        return h


def draw_latents(
    shape: tuple[int, ...],
    n: int,
    batch: int,
    *,
    generator: torch.Generator,
    device: torch.device,
    stratified: bool = False,
) -> Tensor:
    """Draw n lambdas for each of `batch` examples, shape (n, batch, *shape), fp32 in [0, 1).

    With `stratified`, the n values of each coordinate fall one into each of [i/n, (i+1)/n) (a Latin
    hypercube): every lambda keeps its uniform law and the mean over n has less variance.
    """
    u = uniform((n, batch, *shape), generator=generator, device=device)
    if stratified:
        order = uniform(u.shape, generator=generator, device=device).argsort(0)
        u = (order + u) / n
    # Rounding to fp32 may reach 1; lambda = 1 is harmless to every injector but not in [0, 1).
    return u.float().clamp(max=1 - 2**-24)


def gaussian(latent: Tensor) -> Tensor:
    """Return z = Phi^{-1}(lambda), standard normal, of the shape of lambda."""
    # Phi^{-1} at the ends of [0, 1) is infinite.
    return torch.special.ndtri(latent.clamp(1e-6, 1 - 1e-6))


def sinusoid(latent: Tensor, size: int, *, scale: float = 1000.0) -> Tensor:
    """Return sinusoidal features of lambda, (B, k) to (B, size), frequencies from 1 down to 1e-4.

    As in the official Di4C: lambda * 1000 is embedded like a time step, so that the fast
    frequencies tell near lambdas apart. With k > 1 coordinates, each gets an equal, even number of
    features, and zeros fill up.

    Raises:
        UserError: if `size` is less than 2 k.
    """
    half = size // (2 * latent.shape[-1])
    if not half:
        raise UserError(f"{size} features are too few for {latent.shape[-1]} coordinates of lambda")
    # In this order of operations: at 1000 rad another one is off by 6e-5 from what the released
    # students were trained with.
    steps = torch.arange(half, device=latent.device)
    frequency = torch.exp(steps * (-math.log(10_000) / max(half - 1, 1)))
    angle = (latent.float() * scale).unsqueeze(-1) * frequency
    features = torch.cat([angle.sin(), angle.cos()], -1).flatten(1)
    return nn.functional.pad(features, (0, size - features.shape[1]))
