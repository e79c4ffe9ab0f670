"""Stand-in for `torchvision.transforms`: the ones that the MaskGIT hosts make their data with.

They draw the random numbers that torchvision draws, in its order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from di4c_plugin.programs.shims.refuse import refusal

Picture = Image.Image
Size = int | Sequence[int]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class Compose:
    """One after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        """Apply."""
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Resize:
    """To (height, width), or the shorter side to `size`; bilinear."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def __call__(self, picture: Picture) -> Picture:
        """Apply."""
        if not isinstance(self.size, int):
            height, width = self.size
        else:
            height, width = (self.size * n // min(picture.size) for n in reversed(picture.size))
        return picture.resize((width, height), Image.Resampling.BILINEAR)


class CenterCrop:
    """The middle of a picture that is not smaller."""

    def __init__(self, size: Size) -> None:
        self.size = _pair(size)

    def __call__(self, picture: Picture) -> Picture:
        """Apply."""
        (height, width), (w, h) = self.size, picture.size
        top, left = round((h - height) / 2), round((w - width) / 2)
        return picture.crop((left, top, left + width, top + height))


class RandomCrop:
    """Any part of a picture that is not smaller."""

    def __init__(self, size: Size) -> None:
        self.size = _pair(size)

    def __call__(self, picture: Picture) -> Picture:
        """Apply."""
        (height, width), (w, h) = self.size, picture.size
        if (h, w) == (height, width):
            return picture
        top = int(torch.randint(0, h - height + 1, (1,)))
        left = int(torch.randint(0, w - width + 1, (1,)))
        return picture.crop((left, top, left + width, top + height))


class RandomHorizontalFlip:
    """Mirrored with probability p: a picture, or a tensor (..., W)."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, picture: Any) -> Any:
        """Apply."""
        if torch.rand(1) >= self.p:
            return picture
        if isinstance(picture, Tensor):
            return picture.flip(-1)
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


class ToTensor:
    """A picture of bytes as (C, H, W), 0 ... 1."""

    def __call__(self, picture: Picture) -> Tensor:
        """Apply."""
        values = torch.from_numpy(np.array(picture, dtype=np.uint8))
        values = values[..., None] if values.dim() == 2 else values
        return values.permute(2, 0, 1).contiguous().float() / 255


class Normalize:
    """(x - mean) / std in each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply."""
        return (x - self.mean) / self.std


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refusal("torchvision", f"torchvision.transforms.{name}", "torchvision")
