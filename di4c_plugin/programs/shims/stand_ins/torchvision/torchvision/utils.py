"""Stand-in for `torchvision.utils`: grids of pictures, as the MaskGIT hosts log them."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.programs.shims.refuse import refusal


def make_grid(
    tensor: Tensor,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """Return pictures (B, C, H, W) as one (3, ...), `nrow` in a row; normalize: all to 0 ... 1."""
    if tensor.shape[1] == 1:
        tensor = tensor.repeat(1, 3, 1, 1)
    if normalize:
        low, high = tensor.min(), tensor.max()
        tensor = (tensor - low) / (high - low).clamp(min=1e-5)
    count, channels, height, width = tensor.shape
    if count == 1:
        return tensor[0]
    columns = min(nrow, count)
    rows = math.ceil(count / columns)
    shape = (channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    grid = tensor.new_full(shape, pad_value)
    for k, picture in enumerate(tensor):
        y = padding + k // columns * (height + padding)
        x = padding + k % columns * (width + padding)
        grid[:, y : y + height, x : x + width] = picture
    return grid


@torch.no_grad()
def save_image(tensor: Tensor, fp: str | Path, **kwargs: Any) -> None:
    """Write a picture (C, H, W), or a grid of (B, C, H, W), with values 0 ... 1."""
    from PIL import Image

    grid = make_grid(tensor if tensor.dim() == 4 else tensor[None], **kwargs)
    levels = grid.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to("cpu", torch.uint8)
    Image.fromarray(levels.numpy()).save(fp)


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.utils.{name}", "torchvision")
