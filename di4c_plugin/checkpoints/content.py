"""The content of a file of weights, read once; it determines the family and the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints.description import read_description
from di4c_plugin.checkpoints.locations import is_index, locate, shards_of
from di4c_plugin.checkpoints.model_file import is_safetensors, read_safetensors
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.errors import UserError, refusing

# Keys of the weights in the checkpoints of programs.
ENTRIES = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class Content:
    """A file.

    Attributes:
        path: of the file.
        origin: what the user named.
        entries: the pickled values, or the tensors of safetensors.
        config: the content of a config beside it.
        description: of a model of ours, checked; None for any other file.
    """

    path: Path
    origin: str
    entries: Mapping[str, Any]
    config: dict[str, Any]
    description: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if is_index(self.path):
            return sum(self.path.with_name(shard).stat().st_size for shard in shards_of(self.path))
        return self.path.stat().st_size

    @property
    def state(self) -> Mapping[str, Any]:
        """The state dict in a checkpoint, or the checkpoint itself, which may be one."""
        for name in ENTRIES:
            if isinstance(self.entries.get(name), Mapping):
                state: Mapping[str, Any] = self.entries[name]
                return state
        return {str(key): value for key, value in self.entries.items()}


def read_content(source: str | Path) -> Content:
    """Read what `locate` finds, safetensors or pickled by torch; nothing in it is executed.

    Raises:
        UserError: if there is no such file, it cannot be read, or is damaged.
    """
    located = locate(source)
    path = located.path
    with refusing(f"{located.origin} cannot be read"):
        if is_index(path):
            return Content(path, located.origin, _sharded(path), located.config)
        if not (path.suffix == ".safetensors" or is_safetensors(path)):
            return Content(path, located.origin, load_inert(path, mmap=True), located.config)
        text, tensors = read_safetensors(path)
        description = None if text is None else read_description(text, str(path))
        return Content(path, located.origin, tensors, located.config, description)


def _sharded(index: Path) -> dict[str, Any]:
    """Return the tensors of all files that an index names; raises UserError."""
    tensors: dict[str, Any] = {}
    for shard in shards_of(index):
        path = index.with_name(shard)
        if not path.is_file():
            raise UserError(f"no such file: {path}, which {index.name} names")
        shard_tensors = read_safetensors(path)[1]
        if twice := shard_tensors.keys() & tensors.keys():
            raise UserError(f"{path} holds {min(twice)} a second time")
        tensors |= shard_tensors
    return tensors
