"""The latent as scale and shift of every normalised input: adaLN (Peebles & Xie 2023, 3.2)."""

from torch import Tensor, nn

from di4c_plugin.models.latent.base import LatentInjector, Sizes, sinusoid


class AdaLNLatent(LatentInjector):
    """h -> (1 + gamma(lambda)) h + beta(lambda) by a linear map of features of lambda.

    `std` is the initial standard deviation of gamma and beta. At 0 the student would be the
    teacher, but then every lambda gets the same gradient and the correlations are never learnt (a
    saddle); small and positive is near the teacher and off the saddle.
    """

    def __init__(
        self, sizes: Sizes, *, dim: int = 1, features: int = 128, std: float = 0.1
    ) -> None:
        super().__init__()
        self.latent_shape = (dim,)
        self.features = features
        self.num_norms = sizes.num_norms
        self.modulation = nn.Linear(features, sizes.num_norms * 2 * sizes.hidden_size)
        # The squares of sinusoidal features sum to features / 2.
        nn.init.normal_(self.modulation.weight, std=std / (features / 2) ** 0.5)
        nn.init.zeros_(self.modulation.bias)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: gamma and beta of every sub-layer, (B, num_norms, 2, H)."""
        features = sinusoid(latent, self.features).to(self.modulation.weight.dtype)
        return self.modulation(features).unflatten(-1, (self.num_norms, 2, -1))

    def on_norm(self, h: Tensor, code: Tensor, layer: int) -> Tensor:
        """Scale and shift."""
        gamma, beta = code[:, layer].unsqueeze(2).unbind(1)
        return h * (1 + gamma) + beta
