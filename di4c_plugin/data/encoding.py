"""Encodes pictures as codes, once: the codes are cached in a file."""

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
from di4c_plugin.data.arrays import Array, read_arrays, small
from di4c_plugin.data.partial_codes import MADE_FROM, Partial
from di4c_plugin.data.pictures import Pictures, Progress, in_parts
from di4c_plugin.data.vq import VQ
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write

VERSION = 2  # of how a picture is read


def encode(
    pictures: Pictures,
    vq: VQ,
    *,
    cache: str | Path | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Data:
    """Return the codes of pictures: x_0 (M, D), int16 or int32, and their labels, if any.

    Existing codes are read from the cache, by names, sizes and times of the files and by the VQ
    model's weights; so are those of an interrupted run, or of one with unreadable pictures. Of
    several processes (torchrun's), one encodes and the others wait for it; the file is complete at
    any time.

    Args:
        pictures: from `read_pictures(folder, n)`.
        vq: on the device to compute on.
        cache: an .npz file for the codes (`read_codes` reads it too); None: one in the user's cache
            folder.
        batch_size: pictures at once.
        progress: called with (pictures done, all pictures), unless they are in the cache.

    Raises:
        UserError: if a picture cannot be read, or `cache` holds other codes or cannot be written.
    """
    keys = keys_of(pictures)
    settings = settings_of(pictures, vq)
    made_from = hashlib.sha256(settings.encode() + keys.tobytes()).hexdigest()
    file = cache_file(made_from) if cache is None else Path(cache)
    codes = kept_codes(file, made_from, ours=cache is None)
    if codes is None:
        check_writable(file)
        with FileLock(file.with_name(f"{file.name}.lock")):
            codes = kept_codes(
                file, made_from, ours=cache is None
            )  # from the last holder of the lock
            if codes is None:
                source = f"{settings} {pictures.folder.absolute()}".encode()
                part = cache_file(hashlib.sha256(source).hexdigest()) if cache is None else file
                work = Partial(part.with_name(f"{part.name}.part.npz"), settings, keys)
                codes = codes_of(pictures, vq, work, batch_size, progress)
                keep(file, codes, pictures.all_labels(), made_from)
                work.file.unlink(missing_ok=True)
    return Data(codes.flatten(1), pictures.all_labels())


def settings_of(pictures: Pictures, vq: VQ) -> str:
    """Return a text of everything that codes depend on, besides the pictures."""
    return f"{VERSION} {vq.fingerprint} {pictures.shape} {pictures.fit}"


def keys_of(pictures: Pictures) -> Array:
    """Return a key for each picture, uint64 (M, 2): by name, size and time of the file, mirrored.

    Raises:
        UserError: for a missing file.
    """
    keys = bytearray()
    for mirrored in range(1 + pictures.mirror):
        for name in pictures.files:
            try:
                state = (pictures.folder / name).stat()
            except OSError as error:
                raise UserError(
                    f"cannot read {pictures.folder / name}: {error.strerror}"
                ) from error
            text = f"{mirrored} {name} {state.st_size} {state.st_mtime_ns}"
            keys += hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:16]
    return np.frombuffer(bytes(keys), np.uint64).reshape(-1, 2)


def cache_file(made_from: str) -> Path:
    """Return the file for these codes in $XDG_CACHE_HOME, or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "di4c_plugin" / "codes" / f"{made_from[:32]}.npz"


def kept_codes(file: Path, made_from: str, *, ours: bool) -> Tensor | None:
    """Return the codes (M, h, w) that a file holds, or None if there is no such file.

    Args:
        file: of the cache.
        made_from: the digest of settings and pictures that the file must have.
        ours: whether the file is in our cache folder, where other codes are simply replaced.

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
        if not ours:
            raise
    if ours:
        return None
    raise UserError(
        f"{file} holds codes of other pictures, another size or another VQGAN: "
        "delete it, or name another cache"
    )


def check_writable(file: Path) -> None:
    """Create the folder of a file before hours of work, and check that it is writable.

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
    pictures: Pictures,
    vq: VQ,
    work: Partial,
    batch_size: int,
    progress: Progress | None = None,
) -> Tensor:
    """Encode all pictures that `work` lacks, and return all codes (M, h, w), int16 or int32.

    Raises:
        UserError: if some cannot be read, after all others are encoded and saved.
    """
    work.read()
    broken: list[str] = []

    def read(index: int) -> tuple[int, Tensor | None]:
        try:
            return index, pictures[index]
        except UserError as error:
            broken.append(str(error))
            return index, None

    try:
        for part in in_parts(read, work.left(), batch_size):
            good = [(index, x) for index, x in part if x is not None]
            if good:
                batch = torch.stack([x for _, x in good]).to(vq.device) / 255 * 2 - 1
                codes = small(vq.encode(batch).cpu().numpy(), vq.n_codes - 1)
                work.add([index for index, _ in good], codes.numpy())
            if progress is not None:
                progress(work.done, len(pictures))
    except BaseException:
        work.write()
        raise
    if broken:
        work.write()
        names = list(dict.fromkeys(broken))
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise UserError(
            f"{names[0]}{more}; the codes of all others are kept: mend or remove it, start again"
        )
    assert work.codes is not None, "read_pictures refuses folders without pictures"
    return torch.from_numpy(work.codes)


def keep(file: Path, codes: Tensor, labels: Tensor | None, made_from: str) -> None:
    """Write codes to the cache, atomically.

    Raises:
        UserError: if the system refuses.
    """
    arrays: dict[str, Any] = {"codes": codes.numpy(), MADE_FROM: np.array(made_from)}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with atomic_write(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)  # given a path, numpy would add a suffix to some names
