r"""Sampling with some tokens given: prompts, infilling, semi-autoregressive generation.

p(x_0 | x_0^known) is sampled by fixing the prediction at the known positions and showing the
network the clean tokens there, whatever the process would have done to them. For masked diffusion
this is exact conditioning of the learnt model (the network is trained on partly revealed
sequences); for uniform-state diffusion it is the usual replacement.
"""

import torch
from torch import Tensor, nn

from di4c_plugin.diffusion.absorbing import point_mass
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import Denoiser


class Known(nn.Module):
    """A denoiser that knows the tokens x_0 (B or 1, D) where `known` (B or 1, D) is true.

    Raises:
        UserError: if the shapes differ, or nothing is left to sample.
    """

    def __init__(self, denoiser: Denoiser, x_0: Tensor, known: Tensor) -> None:
        super().__init__()
        if x_0.shape != known.shape or x_0.ndim != 2:
            raise UserError(
                f"known tokens and positions must both be (B, D), not {tuple(x_0.shape)} and "
                f"{tuple(known.shape)}"
            )
        if bool(known.all()):
            raise UserError("every token is given: nothing is left to sample")
        self.denoiser, self.x_0, self.known = denoiser, x_0, known

    @property
    def latent_shape(self) -> tuple[int, ...] | None:
        """As of the denoiser."""
        return getattr(self.denoiser, "latent_shape", None)

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        """See `Denoiser.__call__`."""
        x_0 = self.x_0.to(x_t.device).expand_as(x_t)
        known = self.known.to(x_t.device).expand_as(x_t)
        log_p_0 = self.denoiser(torch.where(known, x_0, x_t), t, cond=cond, latent=latent)
        return torch.where(known.unsqueeze(-1), point_mass(x_0, log_p_0), log_p_0)


def known_prefix(prefix: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Return `x_0` and `known` of `Known` for a prefix (P,) or (B, P) of sequences of D positions.

    Raises:
        UserError: if the prefix is not shorter than the sequence.
    """
    prefix = torch.atleast_2d(prefix)
    if not 0 < prefix.shape[1] < positions:
        raise UserError(f"a prefix of {prefix.shape[1]} tokens does not fit {positions} positions")
    x_0 = torch.zeros(len(prefix), positions, dtype=torch.int64, device=prefix.device)
    x_0[:, : prefix.shape[1]] = prefix
    known = torch.arange(positions, device=prefix.device) < prefix.shape[1]
    return x_0, known.expand_as(x_0)
