"""Checkpoints of a run on disk: whole or not at all, and with a digest of all that they hold.

Lightning's own writer uses the system's folder for temporary files and moves the result, which is
not atomic when that is another disk; and its reader passes flipped bits in a tensor.
"""

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.digest import digest_of
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.errors import UserError, reason
from di4c_plugin.files import atomic_write, is_plain
from di4c_plugin.training.shards import KEY, check

DIGEST = "di4c_digest"


def write_checkpoint(
    content: Mapping[str, Any], path: Path, *, previous: Path | None = None
) -> None:
    """Write plain values and tensors, and read them again before they take the place of `path`.

    Args:
        content: what `read_checkpoint` returns.
        path: of the file.
        previous: what the file that is at `path` so far is called then; None: it is gone.

    Raises:
        UserError: when the system refuses, or gives back something else than it was given.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({**content, DIGEST: digest_of(content)}, temporary)
        except RuntimeError as error:  # of the writer of archives, for a full disk
            raise UserError(f"cannot write {path}: {reason(error)}") from error
        try:
            read_checkpoint(temporary, mmap=True, with_shards=False)
        except UserError as error:
            raise UserError(f"cannot write {path}: it was damaged in writing") from error
        if previous is not None and is_plain(path):
            path.replace(previous)


def read_checkpoint(path: Path, *, mmap: bool = False, with_shards: bool = True) -> dict[str, Any]:
    """Return what a checkpoint holds; nothing of it is executed.

    Files of versions that wrote no digest are read too. Of a sharded run it is what is not sharded;
    `with_shards` has the files that it names looked at as well.

    Raises:
        UserError: if it is damaged.
    """
    try:
        # Of the two forms that torch.load reads without trusting paths; then, by itself, plain
        # tensors and values only.
        load_inert(path, mmap=True)
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if DIGEST in content:
            intact = content.pop(DIGEST) == digest_of(content)
        else:
            with zipfile.ZipFile(path) as archive:
                intact = archive.testzip() is None
        intact = intact and (not with_shards or check(content.get(KEY), path.parent))
    except Exception as error:
        raise UserError(f"{path} is damaged") from error
    if not intact:
        raise UserError(f"{path} is damaged")
    return dict(content)


def first_whole(path: Path, others: Iterable[Path], advice: str) -> tuple[Path, dict[str, Any]]:
    """Return the first of some checkpoints that is whole, and what it holds.

    Args:
        path: the newest one; a line on stderr says so if it is not what is returned.
        others: in which order they come if it is damaged or missing.
        advice: what to do if none is whole.

    Raises:
        UserError: if none is.
    """
    others = [other for other in others if is_plain(other)]
    fault = "damaged" if os.path.lexists(path) else "missing"
    for file in [path, *others]:
        try:
            content = read_checkpoint(file)
        except UserError:
            continue
        if file != path:
            update = content.get("global_step", content.get("n_iter"))
            announce_once(f"{path} is {fault}: going on from {file.name}, update {update}")
        return file, content
    rest = f", and no other in {path.parent} is whole" if others else ""
    raise UserError(f"{path} is {fault}{rest}; {advice}")


class CheckpointFiles(CheckpointIO):
    """Has Lightning's Trainer write and read by the functions above, where files are local.

    Args:
        previous: see `write_checkpoint`.
    """

    def __init__(self, previous: Path | None = None) -> None:
        self.previous = previous

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        write_checkpoint(checkpoint, Path(path), previous=self.previous)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
