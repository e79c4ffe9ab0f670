"""Folders of pictures, class by sub-folder, read when they are needed."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from di4c_plugin.data.picture_files import MODES, SUFFIXES, is_picture, open_picture
from di4c_plugin.errors import UserError

Progress = Callable[[int, int], None]
SPLITS = ("Train", "train")


@dataclass(frozen=True)
class Pictures:
    """Pictures in a folder, as a sequence of uint8 tensors (C, H, W).

    Attributes:
        folder: what `files` are relative to.
        files: names of files.
        labels: (len(files),), int64, or None.
        shape: (C, H, W), C = 1 or 3.
        fit: whether to resize and crop to that size; else another size is an error.
        mirror: whether the mirrored picture of each follows, behind all others.
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
            UserError: if the file is no picture, or of another size.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        mirrored, place = divmod(index, len(self.files))
        path = self.folder / self.files[place]
        pixels = torch.from_numpy(self._read(path)).view(*self.shape[1:], self.shape[0])
        pixels = pixels.permute(2, 0, 1)
        return pixels.flip(2) if mirrored else pixels

    def _read(self, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        _, height, width = self.shape
        picture = open_picture(path, self.shape[0])
        if self.fit:
            picture = fitted(picture, height, width)
        if picture.size != (width, height):
            size = f"{picture.width} x {picture.height}"
            raise UserError(f"{path} is of {size} pixels, not {width} x {height}")
        return np.array(picture)


def fitted(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Return the middle of a picture whose shorter side is resized to the crop's.

    The arithmetic is that of torchvision's Resize(n) and CenterCrop(n), which the hosts evaluate
    with; so are its bilinear weights, which are Pillow's.
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

    Args:
        folder: with `train/` or `Train/` in it, that is taken.
        size: n, to resize the shorter side to n and cut the middle n x n out of it, as the hosts
            do for evaluation; or (C, H, W), which pictures must have.
        classes: how many the network has; None for any number.
        mirror: see `Pictures`.

    Raises:
        UserError: if there is no such folder, no picture in it, or too many classes.
    """
    place = split_of(Path(folder))
    fit = isinstance(size, int)
    shape = (3, size, size) if isinstance(size, int) else size
    if shape[0] not in MODES:
        raise UserError(f"pictures have 1 or 3 channels, not {shape[0]}")
    files, labels = find_pictures(place)
    count = 0 if labels is None else int(labels.max()) + 1
    if classes is not None and count > classes:
        raise UserError(f"{place} has {count} classes, and the network {classes}")
    return Pictures(place, files, labels, shape, fit=fit, mirror=mirror)


def split_of(folder: Path) -> Path:
    """Return the folder of the training pictures; raises UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    return next((folder / name for name in SPLITS if (folder / name).is_dir()), folder)


def find_pictures(folder: Path) -> tuple[tuple[str, ...], Tensor | None]:
    """Return names relative to the folder, and labels if pictures lie in sub-folders.

    Raises:
        UserError: if there are none, or some lie beside sub-folders, or a sub-folder has none.
    """
    loose = sorted(p.name for p in folder.iterdir() if is_picture(p.name) and p.is_file())
    kinds = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [pictures_below(folder, kind) for kind in kinds]
    if not loose and not any(found):
        raise UserError(f"no pictures in {folder} (nor codes); known are {', '.join(SUFFIXES)}")
    if not any(found):
        return tuple(loose), None
    if loose:
        raise UserError(f"{folder} has pictures beside its folders of classes, such as {loose[0]}")
    for kind, names in zip(kinds, found, strict=True):
        if not names:  # leaving it out would move all labels behind it
            raise UserError(f"no pictures in {folder / kind}, which counts as a class")
    labels = [torch.full((len(names),), label) for label, names in enumerate(found)]
    return tuple(name for names in found for name in names), torch.cat(labels)


def pictures_below(folder: Path, kind: str) -> list[str]:
    """Return the pictures of a class, wherever below its folder, sorted."""
    names = [
        os.path.relpath(Path(place) / name, folder)
        for place, _, files in os.walk(folder / kind, followlinks=True)
        for name in files
    ]
    return sorted(name for name in names if is_picture(name))


def batches(pictures: Pictures, size: int, *, threads: int = 4) -> Iterator[Tensor]:
    """Read all pictures in order, uint8 (B, C, H, W); the next batch while one is worked on.

    Raises:
        UserError: see `Pictures.__getitem__`.
    """
    pool = ThreadPoolExecutor(threads)  # Pillow decodes and resizes without Python's lock
    try:
        ahead = pool.map(pictures.__getitem__, range(min(size, len(pictures))))
        for start in range(size, len(pictures) + size, size):
            ready = ahead
            ahead = pool.map(pictures.__getitem__, range(start, min(start + size, len(pictures))))
            yield torch.stack(list(ready))
    finally:
        pool.shutdown(cancel_futures=True)


def all_pixels(pictures: Pictures) -> Tensor:
    """Return all pictures, uint8 (M, C, H, W)."""
    return torch.cat(list(batches(pictures, 256)))
