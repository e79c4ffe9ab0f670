"""Checkpoints on disk: written atomically, with a digest of their content.

Lightning's own writer moves a file out of the system's temporary folder, which is not atomic across
disks, and its reader does not notice flipped bits in a tensor.
"""

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.digest import digest_of
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.errors import UserError, reason
from di4c_plugin.files import atomic_write, is_plain
from di4c_plugin.training.shards import KEY, check

DIGEST = "di4c_digest"


class ForeignCheckpoint(UserError):
    """The file is intact, and holds objects: another program wrote it."""


def write_checkpoint(
    content: Mapping[str, Any], path: Path, *, previous: Path | None = None
) -> None:
    """Write plain values and tensors, and verify them before they replace `path`.

    Args:
        content: what `read_checkpoint` will return.
        path: the file to write.
        previous: where the old file at `path` is moved; None: it is replaced.

    Raises:
        UserError: if the system refuses, or the file reads back differently.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({**content, DIGEST: digest_of(content)}, temporary)
        except RuntimeError as error:  # torch's archive writer raises it when the disk is full
            raise UserError(f"cannot write {path}: {reason(error)}") from error
        try:
            read_checkpoint(temporary, mmap=True, with_shards=False)
        except UserError as error:
            raise UserError(f"cannot write {path}: it was damaged in writing") from error
        if previous is not None and is_plain(path):
            path.replace(previous)


def read_checkpoint(path: Path, *, mmap: bool = False, with_shards: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint; nothing in it is executed.

    Files without a digest, from earlier versions, are read too. A sharded run's checkpoint is
    returned without its shards; `with_shards` verifies the shard files as well.

    Raises:
        ForeignCheckpoint: if it holds more than plain values and tensors.
        UserError: if it is damaged.
    """
    try:
        # First refuse archives whose paths are unsafe; torch then loads plain values and tensors.
        load_inert(path, mmap=True)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if DIGEST in content:
            intact = content.pop(DIGEST) == digest_of(content)
        else:
            with zipfile.ZipFile(path) as archive:
                intact = archive.testzip() is None
        intact = intact and (not with_shards or check(content.get(KEY), path.parent))
    except UnpicklingError as error:
        raise ForeignCheckpoint(
            f"{path} was not written by this algo: the folder holds another run; name a new one"
        ) from error
    except Exception as error:
        raise UserError(f"{path} is damaged") from error
    if not intact:
        raise UserError(f"{path} is damaged")
    return dict(content)


def first_intact(path: Path, backups: Iterable[Path], advice: str) -> tuple[Path, dict[str, Any]]:
    """Return the path and content of the first checkpoint that is intact.

    Args:
        path: the newest one; if another is returned, a line on stderr says so.
        backups: tried in this order if `path` is damaged or missing.
        advice: what the user can do if none is intact.

    Raises:
        ForeignCheckpoint: if `path` is another program's.
        UserError: if none is intact.
    """
    backups = [file for file in backups if is_plain(file)]
    fault = "damaged" if os.path.lexists(path) else "missing"
    for file in [path, *backups]:
        try:
            content = read_checkpoint(file)
        except UserError as error:
            if file == path and isinstance(error, ForeignCheckpoint):
                raise
            continue
        if file != path:
            update = content.get("global_step", content.get("n_iter"))
            announce_once(f"{path} is {fault}: going on from {file.name}, update {update}")
        return file, content
    rest = f", and no other in {path.parent} is intact" if backups else ""
    raise UserError(f"{path} is {fault}{rest}; {advice}")
