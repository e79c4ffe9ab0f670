"""Finds weights: a file, a snapshot folder, or a repository on the hub."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints import adapter, hub, vocabulary
from di4c_plugin.errors import UserError, reason
from di4c_plugin.plain_files import read_json, read_yaml

INDEX = "model.safetensors.index.json"  # maps weights to the files that hold them
WEIGHT_FILES = ("model.safetensors", INDEX, "pytorch_model.bin", adapter.WEIGHTS)
CONFIG_FILE = "config.json"
# Where Hydra keeps the config of the run that wrote `checkpoints/last.ckpt`.
RUN_CONFIG = Path("..", ".hydra", "config.yaml")


@dataclass(frozen=True)
class Source:
    """The file of the weights, its config, and a name for messages."""

    path: Path
    config: dict[str, Any]
    origin: str


def locate(source: str | Path) -> Source:
    """Find the file of the weights, on this machine or on the hub.

    Raises:
        UserError: if there is neither file nor folder nor repository.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir() and str(source):
            path = _weights_in(path)
        exists = path.is_file()
    except (OSError, RuntimeError) as error:  # too long a name, a home of nobody
        raise UserError(
            f"no such model file: {str(source)[:200]} ({reason(error)[:100]})"
        ) from error
    if exists:
        config = read_config(path.parent / CONFIG_FILE) or run_config(path)
        return Source(path, config, str(source))
    if isinstance(source, Path) or not hub.looks_like_id(source):
        raise UserError(f"no such model file: {source}")
    return _download(source)


def _download(source: str) -> Source:
    file, commit = hub.fetch_any(source, WEIGHT_FILES)
    for shard in shards_of(file) if is_index(file) else ():
        if hub.fetch(source, shard, commit) is None:
            raise UserError(f"hub repository {source} lacks {shard}, which its index names")
    config = hub.fetch(source, CONFIG_FILE, commit)
    with suppress(UserError):  # most repositories have none
        hub.fetch(source, vocabulary.FILE, commit)
    name, _, revision = source.partition("@")
    origin = f"{name}@{revision or 'main'} ({commit[:12]})"
    return Source(file, {} if config is None else read_config(config), origin)


def _weights_in(folder: Path) -> Path:
    """Return the file of weights in a snapshot folder; raises UserError if there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").exists():
        raise UserError(
            f"{folder} is a sharded checkpoint; save it whole (strategy.state_dict_type=full)"
        )
    named = [name for name in WEIGHT_FILES if name not in (INDEX, adapter.WEIGHTS)]
    raise UserError(f"{folder} holds neither {' nor '.join(named)}")


def is_index(path: Path) -> bool:
    """Return whether a file is an index of the files with the weights."""
    return path.name == INDEX


def shards_of(index: Path) -> list[str]:
    """Return the names of the files, in its own folder, that an index names; raises UserError."""
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    files = set(named.values()) if isinstance(named, dict) else set()
    plain = [f for f in files if isinstance(f, str) and Path(f).name == f and f not in ("", "..")]
    if not files or len(plain) != len(files):
        raise UserError(f"{index} names no files of weights")
    return sorted(plain)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.json; {} if there is none; raises UserError if damaged."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def run_config(checkpoint: Path) -> dict[str, Any]:
    """Return the config of the run that wrote a checkpoint, if it is where Hydra puts it.

    SDTT's checkpoints do not describe their network. Interpolations are not resolved.

    Raises:
        UserError: if it is damaged.
    """
    path = checkpoint.parent / RUN_CONFIG
    if checkpoint.suffix != ".ckpt" or not path.is_file():
        return {}
    content = read_yaml(path)
    return content if isinstance(content, dict) else {}
