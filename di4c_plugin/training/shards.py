"""The sharded part of checkpoints: what each process has of each tensor, in files of safetensors.

They lie in shards/UPDATE beside last.ckpt, which holds all that is not sharded, and names them with
their sha256. So a checkpoint is whole once last.ckpt is there, like one of a single file. They are
written and read by `torch.distributed.checkpoint`, in its only format without pickles, and by any
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

# Options that may change where their product stays: the examples of an update are the same.
DIVIDED = ("training.devices", "training.batch_size")


def are_in(description: Mapping[str, Any]) -> bool:
    """Tell whether a run is sharded, by its description's dotted names."""
    return description.get("training.strategy") == "fsdp"


def free(then: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Return which options may differ between a run and what goes on with it, by dotted names."""
    counts = [[description.get(name) for name in DIVIDED] for description in (then, now)]
    whole = all(isinstance(count, int) for each in counts for count in each)
    if not (whole and are_in(then) and math.prod(counts[0]) == math.prod(counts[1])):  # type: ignore[arg-type]
        return set()
    return set(DIVIDED)


def split(content: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return nested values with marks in the place of sharded tensors, and these by name."""
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


def joined(content: Any, place: Path, empty: Callable[[list[int], torch.dtype], Tensor]) -> Any:
    """Return what `split` took apart, with the tensors in the folder `place`; a collective call.

    Args:
        content: with marks.
        place: of the files.
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

    whole = walk(content)
    if shards:
        load(shards, storage_reader=HuggingFaceStorageReader(str(place)))
    return whole


def write(shards: Mapping[str, Tensor], folder: Path, update: int) -> dict[str, Any]:
    """Write shards of a checkpoint, and read them again; a collective call.

    Args:
        shards: sharded tensors by name.
        folder: of the run.
        update: after which.

    Returns:
        What last.ckpt says of them under `KEY`.

    Raises:
        UserError: on all processes, when the system refuses on one, or gives back something else
            than it was given.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    place, rank = folder / FOLDER / str(update), dist.get_rank()
    if rank == 0:
        _empty_out(place)  # of a checkpoint that was not finished
    dist.barrier()
    try:
        writer = HuggingFaceStorageWriter(str(place), save_distributed=True)
        save(dict(shards), storage_writer=writer)
        found: tuple[str | None, Any] = (None, _proved(shards, place, rank))
    except (CheckpointException, Exception) as error:
        found = (reason(error), None)
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, found)
    for fault, _ in every:
        if fault is not None:
            raise UserError(f"cannot write {place}: {fault}")
    return {"folder": str(update), "files": dict(one for _, own in every for one in own)}


def _proved(shards: Mapping[str, Tensor], place: Path, rank: int) -> list[tuple[str, str]]:
    """Return name and sha256 of this process's file, once it holds what it should."""
    from safetensors import safe_open

    from di4c_plugin.checkpoints.digest import digest_of
    from di4c_plugin.networks.attach import local

    file = place / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"
    own = {name: local(tensor) for name, tensor in shards.items()}
    own = {name: tensor for name, tensor in own.items() if tensor.numel()}
    if not own and not file.exists():
        return []
    with safe_open(file, framework="pt") as kept:
        there = set(kept.keys())
        same = own.keys() <= there and all(
            digest_of(kept.get_tensor(name)) == digest_of(tensor) for name, tensor in own.items()
        )
    if not same:
        raise UserError("it was damaged in writing")
    return [(file.name, sha256(file))]


def check(entry: Any, folder: Path) -> bool:
    """Tell whether the files that last.ckpt names are there, and what they were."""
    if entry is None:
        return True
    place, files = folder_of(entry, folder), entry["files"]
    return all(FILE.fullmatch(name) and _is(place / name, digest) for name, digest in files.items())


def folder_of(entry: Mapping[str, Any], folder: Path) -> Path:
    """Return the folder of the shards that last.ckpt in `folder` names."""
    update = entry["folder"]
    if not UPDATE.fullmatch(update):
        raise UserError(f"{update!r} is no number of an update")
    return folder / FOLDER / str(update)


def clear(folder: Path, kept: Collection[str]) -> None:
    """Remove the shards in a run's folder, but those of some updates.

    Only files that are named as ours are, in folders that are; never what a link leads to.
    """
    places = folder / FOLDER
    if not is_folder(places):
        return
    for place in places.iterdir():
        if UPDATE.fullmatch(place.name) and place.name not in kept:
            _empty_out(place)
    _remove_folder(places)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at `path` itself, not at the end of a link."""
    return path.is_dir() and not path.is_symlink()


def _empty_out(place: Path) -> None:
    if not is_folder(place):
        return
    for file in place.iterdir():
        if FILE.fullmatch(file.name) and is_plain(file):
            try:
                file.unlink()
            except OSError as error:
                raise UserError(f"cannot remove {file}: {error.strerror or error}") from error
    _remove_folder(place)


def _remove_folder(place: Path) -> None:
    if not any(place.iterdir()):
        place.rmdir()


def _is(file: Path, digest: str) -> bool:
    return is_plain(file) and sha256(file) == digest


def sha256(file: Path) -> str:
    """Return the sha256 of a file; of one that has not changed since, without reading it again."""
    state = file.stat()
    return _sha256(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256(file: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
