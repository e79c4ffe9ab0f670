"""Arrays of integers from .npy and .npz files, and their storage as small tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from di4c_plugin.data.array_files import load_arrays
from di4c_plugin.errors import UserError

SUFFIXES = (".npy", ".npz")
Array = np.ndarray[Any, Any]


def is_array_file(path: Path) -> bool:
    """Return whether `path` is for `read_arrays`, by its name."""
    return path.suffix.lower() in SUFFIXES


def read_arrays(path: Path, name: str) -> dict[str, Array]:
    """Return the arrays of a file: {`name`: ...} of an .npy file, all of an .npz file.

    Raises:
        UserError: if it is neither, cannot be read, holds Python objects, or has no array `name`.
    """
    if not path.is_file():
        raise UserError(f"no such file or folder: {path}")
    arrays = load_arrays(path, name, "not a readable .npy or .npz file")
    if name not in arrays:
        listed = ", ".join(sorted(arrays))[:200] or "nothing"
        raise UserError(f"{path} has no array {name!r}; there are: {listed}")
    return arrays


def check_whole(values: Array, low: int, high: int, what: str) -> None:
    """Refuse all but integers from `low` to `high`.

    Raises:
        UserError: beginning with `what`, such as "x.npz: codes".
    """
    if values.dtype.kind not in "iu":
        raise UserError(f"{what} must be whole numbers, not {values.dtype}")
    if not values.size:
        raise UserError(f"{what} are none")
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        raise UserError(f"{what} are {low} ... {high} here, and there are {least} ... {most}")


def small(values: Array, most: int) -> Tensor:
    """Return integers up to `most` as int16 if possible, else as int32."""
    fits = most <= np.iinfo(np.int16).max
    return torch.from_numpy(np.ascontiguousarray(values, np.int16 if fits else np.int32))


def read_labels(arrays: Mapping[str, Array], count: int, classes: int, path: Path) -> Tensor | None:
    """Return the array `labels` (count,), int64, if there is one.

    Raises:
        UserError: for another number of labels, or labels outside 0 ... classes - 1.
    """
    if "labels" not in arrays:
        return None
    labels = arrays["labels"]
    if labels.shape != (count,):
        raise UserError(f"{path}: labels of shape {labels.shape} for {count} examples")
    check_whole(labels, 0, classes - 1, f"{path}: labels")
    return torch.from_numpy(labels.astype(np.int64))
