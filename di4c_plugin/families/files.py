"""Weights in the checkpoints of image programs, by the names of their networks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from di4c_plugin.checkpoints.content import Content
from di4c_plugin.checkpoints.naming import bare
from di4c_plugin.checkpoints.storages import check_total
from di4c_plugin.checkpoints.weights import Weights, fingerprint, official_latent


def grid_weights(content: Content) -> Weights:
    """Return the weights in a checkpoint of MaskGIT-pytorch v1 or Halton-MaskGIT, on the CPU."""
    weights = weights_of(content.state, content.origin, size=content.size)
    return replace(weights, latent=official_latent(weights.tensors))


def weights_of(state: Mapping[str, Any], origin: str, *, size: int) -> Weights:
    """Return the tensors of a state dict by the names of the program's network.

    `size` is that of the file, in bytes; tensors of many times that size are refused.
    """
    tensors = {bare(str(k)): v.detach() for k, v in state.items() if isinstance(v, Tensor)}
    check_total(tensors, size, origin)
    # Clones: a memory-mapped file may be rewritten while the model is in use.
    tensors = {name: value.clone() for name, value in tensors.items()}
    return Weights(tensors, None, {}, None, origin, fingerprint(tensors))
