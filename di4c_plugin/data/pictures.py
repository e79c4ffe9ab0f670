"""Folders of pictures, class by sub-folder, read when they are needed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.data.picture_files import MODES, open_picture
from di4c_plugin.data.picture_folders import find_pictures
from di4c_plugin.errors import UserError

Progress = Callable[[int, int], None]
Read = TypeVar("Read")
NARROW = 100  # greatest ratio of the sides: resizing before the crop would need too many pixels


@dataclass(frozen=True)
class Pictures:
    """Pictures in a folder, as a sequence of uint8 tensors (C, H, W).

    Attributes:
        folder: that `files` are relative to.
        files: names of files.
        labels: (len(files),), int64, or None.
        shape: (C, H, W), C = 1 or 3.
        fit: whether to resize and crop to that size; else another size is an error.
        mirror: whether the mirrored pictures follow, after all others.
    """

    folder: Path
    files: tuple[str, ...]
    labels: Tensor | None
    shape: tuple[int, int, int]
    fit: bool = False
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.files) * (1 + self.mirror)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def all_labels(self) -> Tensor | None:
        """Return the labels (len(self),) of all pictures, mirrored ones too."""
        return None if self.labels is None else self.labels.repeat(1 + self.mirror)

    def __getitem__(self, index: int) -> Tensor:
        """Read one picture.

        Raises:
            UserError: if the file is not a picture, or has another size.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        mirrored, number = divmod(index, len(self.files))
        path = self.folder / self.files[number]
        pixels = torch.from_numpy(self._read(path)).view(*self.shape[1:], self.shape[0])
        pixels = pixels.permute(2, 0, 1)
        return pixels.flip(2) if mirrored else pixels

    def _read(self, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        _, height, width = self.shape
        picture = open_picture(path, self.shape[0])
        if self.fit:
            if max(picture.size) > NARROW * min(picture.size):
                raise UserError(f"{path} is more than {NARROW} times as long as wide")
            picture = fitted(picture, height, width)
        if picture.size != (width, height):
            size = f"{picture.width} x {picture.height}"
            raise UserError(f"{path} is of {size} pixels, not {width} x {height}")
        return np.array(picture)


def fitted(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Return the centre crop of a picture whose shorter side is resized to the crop's.

    The arithmetic is that of torchvision's Resize(n) and CenterCrop(n), which the hosts use for
    evaluation, with Pillow's bilinear weights.
    """
    wide, high = picture.size
    short = min(wide, high)
    size = min(height, width)
    picture = picture.resize(
        (wide * size // short, high * size // short), Image.Resampling.BILINEAR
    )
    left = round((picture.width - width) / 2)
    top = round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def read_pictures(
    folder: str | Path,
    size: int | tuple[int, int, int],
    *,
    classes: int | None = None,
    mirror: bool = False,
) -> Pictures:
    """Find the pictures of a folder: a class for each sub-folder, by sorted names, or no classes.

    The numbers of pictures and skipped files are announced.

    Args:
        folder: its split `train/` or `Train/` is taken, if it has one.
        size: n, to resize the shorter side to n and crop the centre n x n, as the hosts do for
            evaluation; or (C, H, W), which pictures must have.
        classes: of the network; None for any number.
        mirror: see `Pictures`.

    Raises:
        UserError: as `find_pictures`, and for too many classes.
    """
    fit = isinstance(size, int)
    shape = (3, size, size) if isinstance(size, int) else size
    if shape[0] not in MODES:
        raise UserError(f"pictures have 1 or 3 channels, not {shape[0]}")
    pictures = find_pictures(Path(folder))
    announce_once(str(pictures))
    count = len(pictures.classes)
    if classes is not None and count > classes:
        raise UserError(f"{pictures.folder} has {count} classes, and the network {classes}")
    labels = torch.arange(count).repeat_interleave(torch.tensor(pictures.counts)) if count else None
    return Pictures(pictures.folder, pictures.files, labels, shape, fit=fit, mirror=mirror)


def in_parts(
    read: Callable[[int], Read], indices: Sequence[int], size: int, *, threads: int = 4
) -> Iterator[list[Read]]:
    """Yield the results of `read` for the indices, `size` at once, reading one part ahead.

    Raises the errors of `read`.
    """
    pool = ThreadPoolExecutor(threads)  # Pillow decodes and resizes without Python's lock
    try:
        ahead = pool.map(read, indices[:size])
        for start in range(size, len(indices) + size, size):
            ready = ahead
            ahead = pool.map(read, indices[start : start + size])
            yield list(ready)
    finally:
        pool.shutdown(cancel_futures=True)


def batches(pictures: Pictures, size: int) -> Iterator[Tensor]:
    """Read all pictures in order, uint8 (B, C, H, W), one batch ahead.

    Raises:
        UserError: see `Pictures.__getitem__`.
    """
    for part in in_parts(pictures.__getitem__, range(len(pictures)), size):
        yield torch.stack(part)


def all_pixels(pictures: Pictures) -> Tensor:
    """Return all pictures, uint8 (M, C, H, W)."""
    return torch.cat(list(batches(pictures, 256)))
