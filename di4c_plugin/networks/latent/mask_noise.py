"""The latent as noise on the mask embedding, drawn independently at every unknown position.

IMDM (2605.10518) and D-MMD (2603.20155, "input noise") inject it there.
"""

from torch import Tensor, nn

from di4c_plugin.networks.latent.base import LatentInjector, Sizes, gaussian
from di4c_plugin.values import Size, Std


class MaskNoiseLatent(LatentInjector):
    """e_d -> e_d + W z_d where position d is unknown, z_d = Phi^{-1}(lambda_d) standard normal.

    `std` is the initial standard deviation of each coordinate of W z_d, in units of that of a new
    network's embeddings.
    """

    def __init__(self, sizes: Sizes, *, dim: Size = 16, std: Std = 0.1) -> None:
        super().__init__()
        self.latent_shape = (sizes.positions, dim)
        self.projection = nn.Linear(dim, sizes.embedding_size, bias=False)
        nn.init.normal_(self.projection.weight, std=std * sizes.embedding_std / dim**0.5)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: W z, shape (B, D, E)."""
        noise: Tensor = self.projection(gaussian(latent).to(self.projection.weight.dtype))
        return noise

    def encode_first(self, latent: Tensor, length: int) -> Tensor:
        """See `LatentInjector.encode_first`."""
        return self.encode(latent[:, :length])

    def on_embedding(self, e: Tensor, code: Tensor, active: Tensor) -> Tensor:
        """Add the noise where the position is unknown."""
        return e + code[:, : e.shape[1]] * active.unsqueeze(-1)
