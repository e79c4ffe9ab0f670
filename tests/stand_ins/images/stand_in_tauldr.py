"""A U-Net of our own with the names and the manners of tauLDR's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from di4c_plugin.networks.latent import sinusoid


class ResBlock(nn.Module):
    def __init__(self, size: int, out: int, features: int, dropout: float) -> None:
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(size, out, 3, padding=1), nn.Conv2d(out, out, 1)
        self.groupnorm1 = nn.GroupNorm(2, out)
        self.dense0, self.dropout0 = nn.Linear(features, out), nn.Dropout(dropout)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv0(silu(x)) + self.dense0(silu(temb))[:, :, None, None]
        return self.conv1(self.dropout0(silu(self.groupnorm1(h))))


class AttnBlock(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.NIN_0 = nn.Module()
        self.NIN_0.W = nn.Parameter(torch.eye(size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", x, self.NIN_0.W)


class Down(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(size, size, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    def __init__(
        self,
        ch: int,
        num_res_blocks: int,
        num_scales: int,
        ch_mult: Sequence[int],
        input_channels: int,
        scale_count_to_put_attn: int,
        data_min_max: Sequence[int],
        dropout: float,
        time_scale_factor: float,
        time_embed_dim: int,
        **others: Any,
    ) -> None:
        super().__init__()
        e = time_embed_dim
        self.low, self.high = data_min_max
        self.time_scale_factor = time_scale_factor
        self.temb_modules = nn.ModuleList([nn.Linear(e, 4 * e), nn.Linear(4 * e, 4 * e)])
        self.input_conv = nn.Conv2d(input_channels, ch, 3, padding=1)
        down: list[nn.Module] = []
        size = ch
        for scale, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                down.append(ResBlock(size, ch * mult, 4 * e, dropout))
                size = ch * mult
                down += [AttnBlock(size)] * (scale == scale_count_to_put_attn)
            down += [Down(size)] * (scale < num_scales - 1)
        self.downsampling_modules = nn.ModuleList(down)
        middle = [ResBlock(size, size, 4 * e, dropout) for _ in range(2)]
        self.middle_modules = nn.ModuleList([middle[0], AttnBlock(size), middle[1]])
        self.upsampling_modules = nn.ModuleList([ResBlock(size, ch, 4 * e, dropout)])
        self.output_conv = nn.Conv2d(ch, 2 * input_channels, 1)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        x = 2 * (x - self.low) / (self.high - self.low) - 1
        e = self.temb_modules[0].in_features
        assert isinstance(e, int)
        temb = sinusoid(timesteps[:, None], e, scale=self.time_scale_factor)
        temb = self.temb_modules[1](silu(self.temb_modules[0](temb)))
        h = self.input_conv(x)
        for part in [*self.downsampling_modules, *self.middle_modules]:
            h = part(h, temb) if isinstance(part, ResBlock) else part(h)
        h = self.upsampling_modules[0](interpolate(h, x.shape[2:]), temb)
        mu, s = self.output_conv(silu(h)).chunk(2, 1)
        return torch.cat([torch.tanh(x + mu), s], 1)
