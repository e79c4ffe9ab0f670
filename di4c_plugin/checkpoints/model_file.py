"""A model file: safetensors weights, with a JSON description in their metadata.

The only reader of safetensors. Nothing is unpickled, a file replaces an older one only when it is
complete, and a digest of weights and description detects damage.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from di4c_plugin.checkpoints.digest import digest_of
from di4c_plugin.errors import UserError, reason
from di4c_plugin.files import atomic_write
from di4c_plugin.limits import regular

# Of the metadata. One entry: the order of several would differ from file to file.
ENTRY = "di4c"
DIGEST = re.compile(r'\{"sha256": "([0-9a-f]{64})", ')


def write_file(
    path: str | Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write weights and description to `path`, atomically."""
    tensors: dict[str, Tensor] = {}
    pointers: set[int] = set()
    for name, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        # Tied weights are written under each of their names: the format knows no sharing.
        tensors[name] = tensor.clone() if tensor.data_ptr() in pointers else tensor
        pointers.add(tensor.data_ptr())
    with atomic_write(path) as temporary:
        # `save_file` would make a file that only its owner can read.
        text = json.dumps(description)
        entry = f'{{"sha256": "{_digest(text, tensors)}", {text[1:]}'
        temporary.write_bytes(save(tensors, metadata={ENTRY: entry}))


def is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors by its first bytes, whatever its name."""
    try:
        with regular(path).open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:  # the next reader reports it
        return False


def read_safetensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """Return the text of our description, None without one, and the tensors of a file.

    Raises:
        UserError: if the file is not safetensors, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            notes = file.metadata() or {}
    except Exception as error:  # the Rust reader raises several kinds
        raise UserError(f"{path} is not a readable safetensors file: {reason(error)}") from error
    text = notes.get(ENTRY)
    match = None if text is None else DIGEST.match(text)
    if text is None or match is None:  # earlier versions wrote no digest
        return text, weights
    text = "{" + text[match.end() :]
    if match[1] != _digest(text, weights):
        raise UserError(f"{path} is damaged: it holds other numbers than were written")
    return text, weights


def described_in(path: Path) -> str | None:
    """Return the text of our description in a file; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            text: str | None = (file.metadata() or {}).get(ENTRY)
            return text
    except Exception:  # as in `read_safetensors`; the next reader reports it
        return None


def _digest(text: str, weights: Mapping[str, Tensor]) -> str:
    return digest_of([text, dict(sorted(weights.items()))])
