"""The latent as noise on the residual stream, drawn independently at every row.

D-MMD (Hoogeboom et al. 2026, arXiv 2603.20155), "input noise" for text: a learned projection of
Gaussian noise is added to the residual stream.
"""

import torch
from torch import Tensor, nn

from di4c_plugin.networks.latent.base import LatentInjector, Sizes, gaussian


class StreamNoiseLatent(LatentInjector):
    """h_l -> h_l + W z_l at every row l of the residual stream, z_l = Phi^{-1}(lambda_l) normal.

    Unlike mask_noise it enters known positions too, and works with patches. `std` is the initial
    standard deviation of each coordinate of W z_l, in units of that of a new network's embeddings.
    """

    def __init__(self, sizes: Sizes, *, dim: int = 16, std: float = 0.5) -> None:
        super().__init__()
        self.latent_shape = (sizes.length, dim)
        self.projection = nn.Linear(dim, sizes.hidden_size, bias=False)
        nn.init.normal_(self.projection.weight, std=std * sizes.embedding_std / dim**0.5)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: W z, shape (B, L, H)."""
        noise: Tensor = self.projection(gaussian(latent).to(self.projection.weight.dtype))
        return noise

    def encode_first(self, latent: Tensor, length: int) -> Tensor:
        """See `LatentInjector.encode_first`."""
        return self.encode(latent[:, :length])

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        """Add the noise; rows after those of the positions (a class token) are unchanged."""
        code = code[:, : h.shape[1]].to(h.dtype)
        length = code.shape[1]
        return torch.cat([h[:, :length] + code, h[:, length:]], 1)
