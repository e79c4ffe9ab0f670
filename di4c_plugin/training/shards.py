"""The sharded part of checkpoints: each process's shards, as safetensors files.

They lie in shards/UPDATE beside last.ckpt, which holds everything else and lists them with their
sha256: a checkpoint is complete once last.ckpt exists, like one of a single file.
`torch.distributed.checkpoint` writes and reads them, in its only format without pickles, with any
number of processes.
"""

import functools
import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.errors import UserError, reason
from di4c_plugin.files import is_plain

FOLDER = "shards"
KEY = "di4c_shards"  # in last.ckpt: {"folder": UPDATE, "files": {name: sha256}}
UPDATE = re.compile(r"\d{1,18}")
FILE = re.compile(r"shard-\d{5}-model-00001-of-00001\.safetensors")
MARK = "di4c_shard"

# Options that may change if their product, the number of examples per update, stays.
DIVIDED = ("training.devices", "training.batch_size")


def are_in(description: Mapping[str, Any]) -> bool:
    """Return whether the run with this description, by dotted names, is sharded."""
    return description.get("training.strategy") == "fsdp"


def free(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return the dotted names of the options that may differ when a run is resumed."""
    sizes = [[description.get(name) for name in DIVIDED] for description in (before, now)]
    known = all(isinstance(count, int) for row in sizes for count in row)
    if not (known and are_in(before) and math.prod(sizes[0]) == math.prod(sizes[1])):  # type: ignore[arg-type]
        return set()
    return set(DIVIDED)


def split(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return nested values with marks in place of sharded tensors, and these tensors by name."""
    shards: dict[str, Tensor] = {}

    def marked(tensor: Tensor, name: str) -> dict[str, Any]:
        shards[name] = tensor
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {MARK: name, "shape": list(tensor.shape), "dtype": dtype}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return marked(value, name) if hasattr(value, "full_tensor") else value
        if isinstance(value, Mapping):
            return {k: walk(v, f"{name}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(walk(v, f"{name}/{i}") for i, v in enumerate(value))
        return value

    return walk(content, ""), shards


def joined(content: Any, folder: Path, empty: Callable[[list[int], torch.dtype], Tensor]) -> Any:
    """Return the values that `split` took apart, with tensors from `folder`; a collective call.

    Args:
        content: with marks.
        folder: of the shards.
        empty: makes a sharded tensor of a shape and type.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    shards: dict[str, Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping) and MARK in value:
            shards[value[MARK]] = empty(value["shape"], getattr(torch, value["dtype"]))
            return shards[value[MARK]]
        if isinstance(value, Mapping):
            return {k: walk(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(walk(v) for v in value)
        return value

    restored = walk(content)
    if shards:
        load(shards, storage_reader=HuggingFaceStorageReader(str(folder)))
    return restored


def write(shards: Mapping[str, Tensor], folder: Path, update: int) -> dict[str, Any]:
    """Write the shards of a checkpoint, and verify them; a collective call.

    Args:
        shards: sharded tensors by name.
        folder: of the run.
        update: the number of updates done.

    Returns:
        The entry `KEY` of last.ckpt.

    Raises:
        UserError: on all processes, if on one the system refuses, or a file reads back differently.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    target, rank = folder / FOLDER / str(update), dist.get_rank()
    if rank == 0:
        _empty_out(target)  # of a checkpoint that was not finished
    dist.barrier()
    try:
        writer = HuggingFaceStorageWriter(str(target), save_distributed=True)
        save(dict(shards), storage_writer=writer)
        outcome: tuple[str | None, Any] = (None, _verified(shards, target, rank))
    except (CheckpointException, Exception) as error:
        outcome = (reason(error), None)
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, outcome)
    for fault, _ in outcomes:
        if fault is not None:
            raise UserError(f"cannot write {target}: {fault}")
    return {"folder": str(update), "files": dict(one for _, files in outcomes for one in files)}


def _verified(shards: Mapping[str, Tensor], folder: Path, rank: int) -> list[tuple[str, str]]:
    """Verify this process's file, and return its name and sha256."""
    from safetensors import safe_open

    from di4c_plugin.checkpoints.digest import digest_of
    from di4c_plugin.networks.attach import local

    file = folder / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"
    pieces = {name: local(tensor) for name, tensor in shards.items()}
    pieces = {name: tensor for name, tensor in pieces.items() if tensor.numel()}
    if not pieces and not file.exists():
        return []
    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
        same = pieces.keys() <= names and all(
            digest_of(stored.get_tensor(name)) == digest_of(tensor)
            for name, tensor in pieces.items()
        )
    if not same:
        raise UserError("it was damaged in writing")
    return [(file.name, sha256(file))]


def check(entry: Any, folder: Path) -> bool:
    """Return whether the files that last.ckpt names exist unchanged."""
    if entry is None:
        return True
    shards, files = folder_of(entry, folder), entry["files"]
    return all(
        FILE.fullmatch(name) and _is(shards / name, digest) for name, digest in files.items()
    )


def folder_of(entry: Mapping[str, Any], folder: Path) -> Path:
    """Return the folder of the shards that last.ckpt in `folder` names."""
    update = entry["folder"]
    if not UPDATE.fullmatch(update):
        raise UserError(f"{update!r} is not the number of an update")
    return folder / FOLDER / str(update)


def clear(folder: Path, kept: Collection[str]) -> None:
    """Remove the shards in a run's folder, except those of the updates in `kept`.

    Only files and folders with our names are removed, and links are never followed.
    """
    root = folder / FOLDER
    if not is_folder(root):
        return
    for path in root.iterdir():
        if UPDATE.fullmatch(path.name) and path.name not in kept:
            _empty_out(path)
    _remove_folder(root)


def is_folder(path: Path) -> bool:
    """Return whether `path` is a folder, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _empty_out(folder: Path) -> None:
    if not is_folder(folder):
        return
    for file in folder.iterdir():
        if FILE.fullmatch(file.name) and is_plain(file):
            try:
                file.unlink()
            except OSError as error:
                raise UserError(f"cannot remove {file}: {error.strerror or error}") from error
    _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _is(file: Path, digest: str) -> bool:
    return is_plain(file) and sha256(file) == digest


def sha256(file: Path) -> str:
    """Return the sha256 of a file, cached until the file changes."""
    state = file.stat()
    return _sha256(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
