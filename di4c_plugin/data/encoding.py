"""Pictures to codes, once: the codes are kept in a file."""

import hashlib
import os
from errno import EACCES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.data.arrays import read_arrays, small
from di4c_plugin.data.pictures import Pictures, Progress, batches
from di4c_plugin.data.vq import VQ
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write

MADE_FROM = "made_from"  # the array with the fingerprint


def encode(
    pictures: Pictures,
    vq: VQ,
    *,
    cache: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Data:
    """Return the codes of pictures: x_0 (M, D), int16 or int32, and their labels, if any.

    What was encoded before is read from the cache, by names, sizes and times of the files and by
    the weights of the VQ model. Of processes that start at once (torchrun's), one encodes and the
    others wait for it; the file is whole at any time.

    Args:
        pictures: as `read_pictures(folder, n)` finds them.
        vq: on the device to work on.
        cache: an .npz file to keep the codes in (`read_codes` reads it too); None is one in the
            user's cache folder.
        batch_size: pictures at once.
        progress: called with (pictures done, all pictures); never if they are in the cache.

    Raises:
        UserError: if a picture cannot be read, or `cache` holds something else, or cannot be
            written.
    """
    made_from = fingerprint_of(pictures, vq)
    file = cache_file(made_from) if cache is None else Path(cache)
    found = kept_codes(file, made_from, own=cache is None)
    if found is None:
        check_writable(file)
        with FileLock(file.with_name(f"{file.name}.lock")):
            found = kept_codes(file, made_from, own=cache is None)  # by who had the lock before
            if found is None:
                found = codes_of(pictures, vq, batch_size, progress)
                keep(file, found, pictures.all_labels(), made_from)
    return Data(found.flatten(1), pictures.all_labels())


def fingerprint_of(pictures: Pictures, vq: VQ) -> str:
    """Return a sha256 of all that the codes depend on; files by name, size and time of change."""
    digest = hashlib.sha256(
        f"{vq.fingerprint} {pictures.shape} {pictures.fit} {pictures.mirror}".encode()
    )
    for name in pictures.files:
        state = (pictures.folder / name).stat()
        digest.update(f"\n{name} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def cache_file(made_from: str) -> Path:
    """Return the file for these codes in $XDG_CACHE_HOME, or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "di4c_plugin" / "codes" / f"{made_from[:32]}.npz"


def kept_codes(file: Path, made_from: str, *, own: bool) -> Tensor | None:
    """Return the codes (M, h, w) that a file holds, or None if there is no such file.

    Args:
        file: of the cache.
        made_from: what the codes must have been made from.
        own: whether the file is in our own folder, where others are simply made anew.

    Raises:
        UserError: if it holds other codes, or something else.
    """
    if not file.exists():
        return None
    try:
        arrays = read_arrays(file, "codes")
        if str(arrays.get(MADE_FROM)) == made_from:
            return torch.from_numpy(arrays["codes"])
    except UserError:
        if not own:
            raise
    if own:
        return None
    raise UserError(
        f"{file} holds codes of other pictures, another size or another VQGAN: "
        "delete it, or name another cache"
    )


def check_writable(file: Path) -> None:
    """Make the folder of a file to be written after what may be hours of work.

    Raises:
        UserError: if the system refuses.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file.parent, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise UserError(f"cannot keep codes in {file}: {error.strerror or error}") from error


def codes_of(
    pictures: Pictures, vq: VQ, batch_size: int, progress: Progress | None = None
) -> Tensor:
    """Encode all pictures: codes (M, h, w), int16 or int32."""
    found: list[Tensor] = []
    done = 0
    for batch in batches(pictures, batch_size):
        codes = vq.encode(batch.to(vq.device) / 255 * 2 - 1)
        found.append(small(codes.cpu().numpy(), vq.n_codes - 1))
        done += len(batch)
        if progress is not None:
            progress(done, len(pictures))
    return torch.cat(found)


def keep(file: Path, codes: Tensor, labels: Tensor | None, made_from: str) -> None:
    """Write codes to the cache, whole or not at all.

    Raises:
        UserError: if the system refuses.
    """
    arrays: dict[str, Any] = {"codes": codes.numpy(), MADE_FROM: np.array(made_from)}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)  # given a path, numpy would add a suffix to some names
