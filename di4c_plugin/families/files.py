"""Weights out of the checkpoints of MaskGIT and Halton-MaskGIT.

Nothing of a pickle is executed (`checkpoints.torch_file`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from di4c_plugin.checkouts import HOSTS
from di4c_plugin.checkpoints.model_file import is_safetensors, names_in, read_safetensors
from di4c_plugin.checkpoints.storages import check_total
from di4c_plugin.checkpoints.torch_file import load_inert
from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.errors import UserError

# By host: a weight that only its network has, and what people call it.
KINDS = {host.name: (host.weight, host.network) for host in HOSTS if host.weight is not None}
# What DistributedDataParallel and torch.compile put into names.
WRAPPERS = ("module", "_orig_mod")
# Where the state dict is in a checkpoint of the hosts and of those who build on them.
STATES = ("model_state_dict", "state_dict", "model")


def read_checkpoint(path: str | Path, host: str) -> Weights:
    """Read the weights in a checkpoint of MaskGIT-pytorch v1 or Halton-MaskGIT, on the CPU.

    `latent` is {"name": "token"} for a student of the official Di4C, which says nothing of it.

    Raises:
        UserError: if there is no such file, it is no checkpoint, or one of another network.
    """
    weights = weights_of(state_in(path), str(path), host, size=Path(path).stat().st_size)
    if any(name.startswith("latent_projection.") for name in weights.tensors):
        return replace(weights, latent={"name": "token"})
    return weights


def state_in(path: str | Path) -> Any:
    """Return the state dict in a file of safetensors or of `torch.save`, which may be one itself.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    if is_safetensors(Path(path)):
        return read_safetensors(Path(path))[1]
    content = load_inert(path, mmap=True)
    return next((content[k] for k in STATES if isinstance(content.get(k), Mapping)), content)


def weights_of(state: Any, origin: str, host: str, *, size: int | None = None) -> Weights:
    """Return the tensors of a state dict by the names of the host's network.

    `size` is that of the file, of which they cannot be many times as much.

    Raises:
        UserError: if they are of another network.
    """
    tensors = {}
    if isinstance(state, Mapping):
        tensors = {bare(str(k)): v.detach() for k, v in state.items() if isinstance(v, Tensor)}
    check_kind(tensors, origin, host)
    if size is not None:
        check_total(tensors, size, origin)
    # Clones: a memory-mapped file may be rewritten while the model is in use.
    tensors = {name: value.clone() for name, value in tensors.items()}
    return Weights(tensors, None, {}, None, origin, fingerprint(tensors))


def kind_of(path: str | Path) -> str | None:
    """Return the host whose network a checkpoint holds; None for none of these."""
    try:
        safe = is_safetensors(Path(path))
        state = names_in(Path(path)) if safe else state_in(path)
    except UserError:
        return None  # who reads it as something else says what is wrong
    names = {bare(str(name)).removeprefix("net.") for name in state}
    return next((host for host, (mark, _) in KINDS.items() if mark in names), None)


def bare(name: str) -> str:
    """Return a weight's name without what wrappers have put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def check_kind(tensors: Mapping[str, Tensor], origin: str, host: str) -> None:
    """Refuse weights of another network.

    Raises:
        UserError: naming which it is, if it is one of ours.
    """
    mark, title = KINDS[host]
    if mark in tensors:
        return
    for other, (sign, name) in KINDS.items():
        if sign in tensors:
            raise UserError(f"{origin} is of {name} (host {other}), not of {title} (host {host})")
    raise UserError(f"{origin} holds no weights of {title}: {mark} is missing")
