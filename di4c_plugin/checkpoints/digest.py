"""A digest of plain values and tensors, which detects damage in a file."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def digest_of(content: Any) -> str:
    """Return a sha256 over names, values, and tensors with their types and shapes, in order.

    Args:
        content: mappings, lists and tuples of tensors and plain values, nested as you like.
    """
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"tensor {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)};".encode())
        for key, inner in value.items():
            _feed(digest, key)
            _feed(digest, inner)
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)};".encode())
        for inner in value:
            _feed(digest, inner)
    else:
        digest.update(f"{type(value).__name__} {value!r};".encode())
