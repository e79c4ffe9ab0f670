"""A file with mean and covariance of a reference's features, and a record of their origin.

An .npz with `mu` (F,), `sigma` (F, F), as in other tools, and `record`, a JSON text. It contains no
pickled objects.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from di4c_plugin.data.array_files import load_arrays
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write


@dataclass(frozen=True)
class Statistics:
    """Mean (F,) and covariance (F, F), float64, and the record: plain JSON values."""

    mu: Tensor
    sigma: Tensor
    record: dict[str, Any]


def write_statistics(statistics: Statistics, path: Path) -> None:
    """Write the file, atomically; raises UserError for a path that does not end in .npz."""
    check_path(path)
    with atomic_write(path) as temporary:
        np.savez(
            temporary,
            mu=statistics.mu.numpy(),
            sigma=statistics.sigma.numpy(),
            record=np.array(json.dumps(statistics.record)),
        )


def check_path(path: Path) -> None:
    """Refuse a path that does not end in .npz; raises UserError."""
    if path.suffix != ".npz":
        raise UserError(f"statistics are .npz files: {path} must end in .npz")


def read_statistics(path: Path, expected: Mapping[str, Any]) -> Statistics:
    """Read a file whose record agrees with `expected`.

    Raises:
        UserError: if it is damaged, has no record, or another one; the first difference is named.
    """
    arrays = load_arrays(path, "", "no readable file of statistics")
    if "" in arrays:
        raise UserError(f"{path} is no readable file of statistics: it is one array")
    record = _record(arrays, path)
    for name, value in expected.items():
        if record.get(name) != value:
            raise UserError(
                f"{path} holds statistics of other pictures: {name} is {record.get(name)!r} there "
                f"and {value!r} here"
            )
    mu, sigma = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
    return Statistics(mu, sigma, record)


def _record(arrays: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the record, after a check of the arrays."""
    missing = [name for name in ("mu", "sigma", "record") if name not in arrays]
    if missing:
        raise UserError(
            f"{path} holds no {' and no '.join(missing)}: statistics that say what they are of "
            "are written by di4c evaluate"
        )
    try:
        record = json.loads(str(arrays["record"]))
    except ValueError:
        record = None
    features = arrays["mu"].size
    fits = arrays["mu"].shape == (features,) and arrays["sigma"].shape == (features, features)
    finite = all(np.issubdtype(arrays[k].dtype, np.floating) for k in ("mu", "sigma")) and all(
        np.isfinite(arrays[k]).all() for k in ("mu", "sigma")
    )
    if not (isinstance(record, dict) and fits and finite):
        raise UserError(f"{path} is a damaged file of statistics")
    return record
