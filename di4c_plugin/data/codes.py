"""Reads existing training data: codes for the MaskGITs, grey levels for tauLDR."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.pickles import read_plain
from di4c_plugin.data.arrays import (
    Array,
    check_whole,
    is_array_file,
    read_arrays,
    read_labels,
    small,
)
from di4c_plugin.data.picture_folders import TRAINING
from di4c_plugin.data.pictures import Progress, all_pixels, read_pictures
from di4c_plugin.errors import UserError

CIFAR, CIFAR_SHAPE = "cifar-10-batches-py", (3, 32, 32)
CIFAR_ROWS = (np.uint8, (3 * 32 * 32,))


def read_codes(
    path: str | Path, *, side: int, codes: int, classes: int, progress: Progress | None = None
) -> Data:
    """Read pre-extracted codes.

    Args:
        path: an .npz file with `codes` (M, h, w) or (M, D) and, if any, `labels` (M,); an .npy
            file with only the codes; or a folder of Halton-MaskGIT's extract_vq_features.py, or the
            parent of its Train/: pickles {"code": (h, w), "y": label}, of which nothing is
            executed.
        side: h = w of the network; D = side^2.
        codes: K; codes are 0 ... K - 1.
        classes: labels are 0 ... classes - 1.
        progress: called with (files read, all files) of a folder.

    Returns:
        x_0 (M, D), int16 or int32; labels (M,), int64, or None.

    Raises:
        UserError: if there are no codes, or the grid, code book or classes differ.
    """
    path = Path(path)
    if path.is_dir():
        arrays = read_code_files(with_codes(path), progress)
    else:
        arrays = read_arrays(path, "codes")
    grids = arrays["codes"]
    check_grid(grids.shape, (side, side), path)
    check_whole(grids, 0, codes - 1, f"{path}: codes")
    x_0 = small(grids.reshape(len(grids), -1), codes - 1)
    return Data(x_0, read_labels(arrays, len(grids), classes, path))


def holds_codes(path: str | Path) -> bool:
    """Return whether `path` is for `read_codes`: a file, or a folder with codes, not pictures.

    True for a missing path, which `read_codes` reports.
    """
    path = Path(path)
    return not path.is_dir() or next(with_codes(path).glob("*.pth"), None) is not None


def with_codes(folder: Path) -> Path:
    """Return the folder of the training codes in a folder: `Train/`, if there is one, or itself."""
    return next((folder / name for name in TRAINING if (folder / name).is_dir()), folder)


def read_code_files(folder: Path, progress: Progress | None = None) -> dict[str, Array]:
    """Return the `codes` and `labels` of Halton-MaskGIT's files in a folder, by sorted names.

    Raises:
        UserError: if there are none, or one has another type or shape.
    """
    files = sorted(folder.glob("*.pth"))
    if not files:
        raise UserError(f"no codes in {folder}: it has no files *.pth of extract_vq_features.py")
    arrays: list[Array] = []
    labels: list[int] = []
    for count, file in enumerate(files, 1):
        code, label = code_of(file)
        if arrays and code.shape != arrays[0].shape:
            raise UserError(f"{file}: codes of shape {code.shape}, not {arrays[0].shape} as before")
        arrays.append(code)
        labels.append(label)
        if progress is not None:
            progress(count, len(files))
    return {"codes": np.stack(arrays), "labels": np.array(labels)}


def code_of(file: Path) -> tuple[Array, int]:
    """Return code and label in a pickle {"code": ..., "y": ...}; raises UserError."""
    record = read_plain(file)
    if isinstance(record, dict):
        code, label = record.get("code"), record.get("y")
        if isinstance(code, np.ndarray) and isinstance(label, int | np.integer):
            return code, int(label)
    raise UserError(f'{file} does not hold codes: {{"code": array, "y": label}}')


def read_levels(
    path: str | Path, *, shape: tuple[int, int, int], levels: int, mirror: bool = False
) -> Data:
    """Read pictures as integer grey levels, positions in the order (C, H, W).

    Args:
        path: a folder of pictures of exactly this size (sub-folders are read too), whose 8-bit
            values v become round(v (S - 1) / 255); CIFAR-10's folder of Python batches, or its
            parent, likewise; or an .npy or .npz file of `levels`, (M, D) or (M, C, H, W), which
            are not converted.
        shape: (C, H, W).
        levels: S; levels are 0 ... S - 1.
        mirror: whether to add the mirrored pictures, after all others.

    Returns:
        x_0 (M, D), int16 or int32; never labels: tauLDR's networks take none.

    Raises:
        UserError: if there are no pictures or levels, or their size or range is wrong.
    """
    path, shape = Path(path), (shape[0], shape[1], shape[2])
    if is_array_file(path):
        values = read_arrays(path, "levels")["levels"]
        check_grid(values.shape, shape, path)
        check_whole(values, 0, levels - 1, f"{path}: levels")
    else:
        values = to_levels(read_pixels(path, shape), levels)
    x_0 = small(values, levels - 1).view(-1, *shape)
    if mirror:
        x_0 = torch.cat([x_0, x_0.flip(3)])
    return Data(x_0.flatten(1))


def read_pixels(path: Path, shape: tuple[int, int, int]) -> Array:
    """Return the pictures below a folder, CIFAR-10's too, uint8 (M, C, H, W); raises UserError."""
    batches = next((p for p in (path, path / CIFAR) if (p / "data_batch_1").is_file()), None)
    if batches is None:
        return all_pixels(read_pictures(path, shape)).numpy()
    if shape != CIFAR_SHAPE:
        raise UserError(f"{batches} has pictures of shape {CIFAR_SHAPE}, not {shape}")
    pixels = [cifar_batch(file) for file in sorted(batches.glob("data_batch_*"))]
    return np.concatenate(pixels).reshape(-1, *CIFAR_SHAPE)


def cifar_batch(file: Path) -> Array:
    """Return the pixels of one of CIFAR-10's Python batches, uint8 (M, 3072); raises UserError."""
    record: Any = read_plain(file)
    data = record.get("data", record.get(b"data")) if isinstance(record, dict) else None
    if isinstance(data, np.ndarray) and (data.dtype, data.shape[1:]) == CIFAR_ROWS:
        return data
    raise UserError(f"{file} is none of CIFAR-10's Python batches")


def to_levels(pixels: Array, levels: int) -> Array:
    """Map 8-bit values v to round(v (S - 1) / 255), in integers: there are no ties."""
    table = (np.arange(256) * 2 * (levels - 1) + 255) // 510
    return table.astype(np.int16 if levels <= 2**15 else np.int32)[pixels]


def check_grid(actual: tuple[int, ...], shape: tuple[int, ...], path: Path) -> None:
    """Refuse arrays that are neither (M, *shape) nor (M, D).

    Raises:
        UserError: naming both shapes.
    """
    if actual[1:] in (shape, (prod(shape),)) and actual[0]:
        return
    expected = " x ".join(map(str, shape))
    given = " x ".join(map(str, actual[1:]))
    count = actual[0] if actual else 0
    raise UserError(f"{path} has {count} examples of {given}: this network takes {expected}")
