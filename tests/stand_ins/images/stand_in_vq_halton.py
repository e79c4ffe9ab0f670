"""A VQ model of our own with the names and the manners of Halton-MaskGIT's `VQModel`."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, normalize

WIDTH = 128


@dataclass
class ModelArgs:
    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    codebook_show_usage: bool = True
    encoder_ch_mult: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    decoder_ch_mult: list[int] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    z_channels: int = 256


class Res(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1)


class Blocks(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: int, widths: list[int]) -> None:
        super().__init__()
        self.num_resolutions = len(widths)
        sizes = [first, *(width * WIDTH for width in widths)]
        self.conv_in = nn.Conv2d(inputs, first, 1)
        self.conv_blocks = nn.ModuleList()
        for i, size in enumerate(sizes[:-1]):
            block = nn.Module()
            block.res = nn.ModuleList([Res(size, sizes[i + 1])])
            self.conv_blocks.append(block)
        self.conv_out = nn.Conv2d(sizes[-1], outputs, 1)

    def forward(self, x: Tensor, factor: float) -> Tensor:
        x = self.conv_in(x)
        blocks: Any = self.conv_blocks
        for k, block in enumerate(blocks):
            x = block.res[0].conv1(x)
            if k < self.num_resolutions - 1:
                x = avg_pool2d(x, 2) if factor < 1 else interpolate(x, scale_factor=factor)
        return self.conv_out(x)


class Quantize(nn.Module):
    def __init__(self, codes: int, numbers: int, usage: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, numbers)
        if usage:
            self.register_buffer("codebook_used", torch.zeros(64))


class VQModel(nn.Module):
    def __init__(self, config: ModelArgs) -> None:
        super().__init__()
        numbers, z = config.codebook_embed_dim, config.z_channels
        up = config.decoder_ch_mult[::-1]
        self.encoder = Blocks(3, z, WIDTH, config.encoder_ch_mult)
        self.decoder = Blocks(z, 3, up[0] * WIDTH, up)
        self.quantize = Quantize(config.codebook_size, numbers, config.codebook_show_usage)
        self.quant_conv = nn.Conv2d(z, numbers, 1)
        self.post_quant_conv = nn.Conv2d(numbers, z, 1)
        for name, value in self.named_parameters():
            if name.endswith("bias"):  # they would outweigh the picture
                nn.init.zeros_(value)

    def encode(self, x: Tensor) -> Any:
        z = self.quant_conv(self.encoder(x, 0.5)).permute(0, 2, 3, 1)
        table = normalize(self.quantize.embedding.weight)
        nearest = torch.cdist(normalize(z, dim=-1).flatten(0, 2), table).argmin(1)
        return None, None, (None, None, nearest)

    def decode_code(self, code_b: Tensor) -> Tensor:
        z = normalize(self.quantize.embedding.weight)[code_b].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z), 2.0)
