"""The latent as scale and shift of every normalised input: adaLN (Peebles & Xie 2023, 3.2)."""

import torch
from torch import Tensor, nn

from di4c_plugin.networks.latent.base import LatentInjector, Sizes, sinusoid
from di4c_plugin.values import Size, Std


class AdaLNLatent(LatentInjector):
    """h -> (1 + gamma(lambda)) h + beta(lambda) by a linear map of features of lambda.

    `std` is the initial standard deviation of gamma and beta. At 0 the student would be the
    teacher, but then every lambda gets the same gradient and the correlations are never learnt (a
    saddle); small and positive is near the teacher and off the saddle.
    """

    def __init__(
        self, sizes: Sizes, *, dim: Size = 1, features: Size = 128, std: Std = 0.1
    ) -> None:
        super().__init__()
        self.latent_shape = (dim,)
        self.features, self.hidden_size = features, sizes.hidden_size
        self.modulation = nn.Linear(features, sizes.num_norms * 2 * sizes.hidden_size)
        # The squares of sinusoidal features sum to features / 2.
        nn.init.normal_(self.modulation.weight, std=std / (features / 2) ** 0.5)
        nn.init.zeros_(self.modulation.bias)

    def encode(self, latent: Tensor) -> Tensor:
        """See `LatentInjector.encode`: 1 + gamma and beta of every sub-layer in turn.

        Shape (2 num_norms, B, 1, H), so that a sub-layer only has to index it.
        """
        # bf16 would round 1 + gamma to multiples of 2^-8.
        with torch.autocast(latent.device.type, enabled=False):
            features = sinusoid(latent, self.features).to(self.modulation.weight.dtype)
            code: Tensor = self.modulation(features).unflatten(-1, (-1, 2, self.hidden_size))
        gamma, beta = code.unbind(-2)
        return torch.stack([1 + gamma, beta], -2).flatten(1, 2).transpose(0, 1).unsqueeze(2)

    def on_norm(self, h: Tensor, code: Tensor, layer: int) -> Tensor:
        """Scale and shift, in one pass over h."""
        return torch.addcmul(code[2 * layer + 1], h, code[2 * layer])
