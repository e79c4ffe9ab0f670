"""The latent as one extra token: Di4C's layout for transformers (MaskGIT, SDTT)."""

import torch
from torch import Tensor, nn

from di4c_plugin.networks.latent.base import LatentInjector, Sizes, sinusoid
from di4c_plugin.values import Size


class TokenLatent(LatentInjector):
    """Appends a projection of lambda to the sequence, without positional embedding.

    The parameter name `latent_projection` and its sizes (128 to 512 to H) are those of the released
    students. An appended token changes attention, so that the student starts near the teacher but
    not at it.
    """

    def __init__(self, sizes: Sizes, *, dim: Size = 1, features: Size = 128) -> None:
        super().__init__()
        self.latent_shape = (dim,)
        self.features = features
        self.latent_projection = nn.Sequential(
            nn.Linear(features, 512), nn.GELU(), nn.Linear(512, sizes.hidden_size)
        )

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: the token, shape (B, 1, H)."""
        dtype = next(self.latent_projection.parameters()).dtype
        return self.latent_projection(sinusoid(latent, self.features).to(dtype)).unsqueeze(1)

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        """Append the token."""
        return torch.cat([h, code.to(h.dtype)], 1)

    def on_output(self, h: Tensor) -> Tensor:
        """Drop it."""
        return h[:, :-1]
