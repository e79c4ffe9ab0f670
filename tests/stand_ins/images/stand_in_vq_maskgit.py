"""A VQ model of our own with the names and the manners of MaskGIT-pytorch's `VQModel`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


class Quantize(nn.Module):
    def __init__(self, codes: int, numbers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, numbers)

    def forward(self, z: Tensor) -> Any:
        z = z.permute(0, 2, 3, 1)
        nearest = torch.cdist(z.flatten(0, 2), self.embedding.weight).argmin(1)
        return None, None, (None, None, nearest)


class Scales(nn.Module):
    """Halves a picture, or doubles codes, as often as there are scales but one."""

    def __init__(self, inputs: int, outputs: int, scales: int) -> None:
        super().__init__()
        self.num_resolutions = scales
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def down(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(x), 2 ** (self.num_resolutions - 1))

    def up(self, z: Tensor) -> Tensor:
        return self.conv(interpolate(z, scale_factor=2.0 ** (self.num_resolutions - 1)))


class VQModel(nn.Module):
    def __init__(
        self,
        ddconfig: dict[str, Any],
        lossconfig: dict[str, Any],
        n_embed: int,
        embed_dim: int,
        ckpt_path: str | None = None,
    ) -> None:
        super().__init__()
        if ckpt_path is not None:
            raise AssertionError("the host would unpickle this file without any care")
        scales = len(ddconfig["ch_mult"])
        self.encoder = Scales(3, embed_dim, scales)
        self.decoder = Scales(embed_dim, 3, scales)
        self.quantize = Quantize(n_embed, embed_dim)

    def encode(self, x: Tensor) -> Any:
        return self.quantize(self.encoder.down(x))

    def decode_code(self, code_b: Tensor) -> Tensor:
        return self.decoder.up(self.quantize.embedding(code_b).permute(0, 3, 1, 2))
