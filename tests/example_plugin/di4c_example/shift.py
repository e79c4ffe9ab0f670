"""A latent of one number: it shifts the whole residual stream along a learnt direction."""

from torch import Tensor, nn

from di4c_plugin.networks.latent import LatentInjector, Sizes


class Shift(LatentInjector):
    """h -> h + (2 lambda - 1) w, the same for all positions of a sample.

    `std` is the standard deviation of w at the start, in units of that of a new network's
    embeddings. At 0 every lambda would get the same gradient, and nothing were learnt of it.
    """

    def __init__(self, sizes: Sizes, *, std: float = 1.0) -> None:
        super().__init__()
        self.latent_shape = (1,)
        self.direction = nn.Linear(1, sizes.hidden_size, bias=False)
        nn.init.normal_(self.direction.weight, std=std * sizes.embedding_std)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: lambda (B, 1) to the shift (B, 1, H)."""
        shift: Tensor = self.direction(2 * latent - 1).unsqueeze(1)
        return shift

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        """Shift h (B, L, H)."""
        return h + code.to(h.dtype)
