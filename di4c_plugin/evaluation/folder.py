"""A folder of pictures as the reference of a metric: any depth, any size, cut to one size."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.data.picture_files import SUFFIXES, open_picture
from di4c_plugin.data.picture_folders import pictures_below, without
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.picture_metric import Reference

BATCH = 64


def folder_reference(folder: Path, size: tuple[int, int, int]) -> Reference:
    """Return the pictures in a folder and the folders in it, at size (C, H, W).

    The folder itself is looked at only when the pictures are read, which raises UserError if it is
    missing, holds none, or one is damaged.
    """
    height, width = size[1:]
    return Reference(
        f"pictures in {folder}",
        f"centre crop, bicubic to {height}x{width}",
        size,
        partial(_batches, folder, size),
    )


def _batches(folder: Path, size: tuple[int, int, int]) -> Iterator[Tensor]:
    paths = _pictures(folder)
    for start in range(0, len(paths), BATCH):
        yield torch.stack([read_picture(path, size) for path in paths[start : start + BATCH]])


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"no such folder of pictures: {folder}")
    skipped: Counter[str] = Counter()
    names = pictures_below(folder, "", skipped)
    if not names:
        raise UserError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}){without(skipped)}")
    announce_once(f"{folder}: {len(names)} pictures{without(skipped)}")
    return [folder / name for name in names]


def read_picture(path: Path, size: tuple[int, int, int]) -> Tensor:
    """Return one picture, uint8, at size (C, H, W), C = 1 (grey) or 3.

    Raises:
        UserError: see `open_picture`.
    """
    channels, height, width = size
    picture = open_picture(path, channels)
    picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).view(height, width, channels).movedim(-1, 0)
