"""Teacher and student on a host's own backbone class."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.model import load_weights
from di4c_plugin.checkpoints.vocabulary import Vocabulary
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.families.dit import DiTNetworks, backbone_sizes, process_of, said, tells_process

EMBEDDING = "vocab_embed.embedding"
# Rotations are a function of the architecture; some files hold them, some do not.
DERIVED = "rotary_emb.inv_freq"
FAMILY: Family[Any] = DiTNetworks()


def with_latent(
    backbone: nn.Module, latent: dict[str, Any], process: Process, positions: int
) -> nn.Module:
    """Return the host's backbone with a latent, in place; raises UserError as `attach_latent`."""
    sizes = backbone_sizes(backbone, positions, latent)
    FAMILY.let_latent_in(backbone, latent, sizes, process)
    return backbone


def load_backbone(backbone: nn.Module, weights: Weights) -> None:
    """Load weights by name into a backbone of the same architecture; errors as `fitting`."""
    load_weights(backbone, fitting(backbone, weights).tensors, weights.origin)


def fitting(backbone: nn.Module, weights: Weights) -> Weights:
    """Return the weights with what follows from the architecture alone, as a backbone has it.

    Raises:
        UserError: for another vocabulary, of the teacher and of this run.
    """
    expected, tensors = backbone.state_dict(), dict(weights.tensors)
    if (
        EMBEDDING in tensors
        and EMBEDDING in expected
        and len(tensors[EMBEDDING]) != len(expected[EMBEDDING])
    ):
        raise UserError(
            f"{weights.origin} has a vocabulary of {len(tensors[EMBEDDING])} tokens, this run's "
            f"tokenizer has {len(expected[EMBEDDING])} (with the mask): use the teacher's tokenizer"
        )
    tensors |= {name: expected[name] for name in expected if name.endswith(DERIVED)}
    return replace(weights, tensors=tensors)


def check_weights(weights: Weights, process: Process, *, time_conditioned: bool) -> None:
    """Refuse weights of another kind of model than the one they are to be loaded into.

    Raises:
        UserError: for autoregressive models and scores, another process, another mask, and a
            network that was trained with the time where this run gives none, or without it.
    """
    theirs, ours = process_of(weights), process.config
    knows_mask = "mask_index" in weights.config or weights.process is not None
    known_keys = ["name"] * tells_process(weights) + ["mask"] * knows_mask
    for key in known_keys:
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{weights.origin} is for the process {theirs}, this run has {ours}: {key} differs"
            )
    sizes = weights.notes.get("network", {})
    time_conditioning = sizes.get("time_conditioning", said(weights.config, "time_conditioning"))
    if time_conditioning is not None and bool(time_conditioning) != time_conditioned:
        raise UserError(
            f"{weights.origin} was trained with time_conditioning={bool(time_conditioning)}, "
            f"this run has time_conditioning={time_conditioned}"
        )


def check_vocabulary(weights: Weights, process: Process, vocabulary: Vocabulary | None) -> None:
    """Refuse weights of another vocabulary than this run's; say so where theirs is not known.

    Raises:
        UserError: naming both tokenizers.
    """
    theirs = weights.vocabulary(process.config)
    if vocabulary is None:
        return
    if theirs is not None:
        theirs.check(vocabulary, weights.origin, "this run")
    elif weights.tokenizer is None or weights.tokenizer.name != vocabulary.name:
        missing = (
            "which tokens it knows"
            if weights.tokenizer is None
            else (f"which tokens its tokenizer {weights.tokenizer.name} has")
        )
        announce_once(f"{weights.origin} does not say {missing}: taken for those of {vocabulary}")


def restore(backbone: nn.Module, weights: Weights, process: Process, positions: int) -> nn.Module:
    """Return a copy of an untouched backbone with these weights and, if need be, their latent."""
    network = copy.deepcopy(backbone)
    new_student(network, weights.latent, weights, process, positions)
    return network


def new_student(
    backbone: nn.Module,
    latent: dict[str, Any] | None,
    weights: Weights,
    process: Process,
    positions: int,
) -> nn.Module:
    """Give an untouched backbone, in place, the teacher's weights and, unless it is None, a latent.

    See `Family.start_from`.
    """
    sizes = None if latent is None else backbone_sizes(backbone, positions, latent)
    FAMILY.start_from(backbone, fitting(backbone, weights), latent, sizes, process)
    return backbone
