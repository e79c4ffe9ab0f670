"""A model file: safetensors weights, and in their metadata the JSON that describes them.

Nothing is unpickled, and a file replaces an older one only when complete.
Tests: tests/models/test_checkpoint.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write

FORMAT = 1


def write_file(
    path: str | Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write weights and description to `path`, atomically."""
    whole: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        # Tied weights are written under each of their names: the format knows no sharing.
        whole[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    with atomic_write(path) as temporary:
        # `save_file` would make a file that only its owner can read.
        temporary.write_bytes(save(whole, metadata={"di4c": json.dumps(description)}))


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the weights of a model file.

    Raises:
        UserError: if it is missing, damaged, not one of ours, or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    if "di4c" not in metadata:
        raise UserError(f"{path} was not written by di4c: it has no description of the model")
    try:
        description: dict[str, Any] = json.loads(metadata["di4c"])
        newer = description["format"] > FORMAT
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the description of the model in {path} is damaged: {error!r}") from error
    if newer:
        raise UserError(f"{path} was written by a newer di4c_plugin; please upgrade")
    return description, weights
