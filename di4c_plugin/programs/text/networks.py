"""Teacher and student on a host's own backbone class."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.vocabulary import Vocabulary
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.base import Family
from di4c_plugin.families.dit import DiTNetworks, backbone_sizes, process_of, said, tells_process

EMBEDDING = "vocab_embed.embedding"
# A function of the architecture, which only some files hold.
DERIVED = "rotary_emb.inv_freq"
FAMILY: Family[Any] = DiTNetworks()


def fitting(backbone: nn.Module, weights: Weights) -> Weights:
    """Return the weights, completed by the backbone's tensors that follow from the architecture.

    Raises:
        UserError: if the sizes of the vocabularies differ.
    """
    expected, tensors = backbone.state_dict(), dict(weights.tensors)
    sizes = [len(state[EMBEDDING]) for state in (tensors, expected) if EMBEDDING in state]
    if len(set(sizes)) > 1:
        raise UserError(
            f"{weights.origin} has a vocabulary of {sizes[0]} tokens, this run's tokenizer has "
            f"{sizes[1]} (with the mask): use the teacher's tokenizer"
        )
    tensors |= {name: expected[name] for name in expected if name.endswith(DERIVED)}
    return replace(weights, tensors=tensors)


def check_weights(weights: Weights, process: Process, *, time_conditioned: bool) -> None:
    """Refuse weights of another kind of model than this run's.

    Raises:
        UserError: for autoregressive and score models, another process or mask, and another
            time conditioning.
    """
    actual, expected = process_of(weights), process.config
    knows_mask = "mask_index" in weights.config or weights.process is not None
    known_keys = ["name"] * tells_process(weights) + ["mask"] * knows_mask
    for key in known_keys:
        if actual.get(key) != expected.get(key):
            raise UserError(
                f"{weights.origin} is for the process {actual}, this run has {expected}: "
                f"{key} differs"
            )
    sizes = weights.notes.get("network", {})
    time_conditioning = sizes.get("time_conditioning", said(weights.config, "time_conditioning"))
    if time_conditioning is not None and bool(time_conditioning) != time_conditioned:
        raise UserError(
            f"{weights.origin} was trained with time_conditioning={bool(time_conditioning)}, "
            f"this run has time_conditioning={time_conditioned}"
        )


def check_vocabulary(weights: Weights, process: Process, vocabulary: Vocabulary | None) -> None:
    """Refuse weights of another vocabulary than this run's; announce if theirs is unknown.

    Raises:
        UserError: with the names of both tokenizers.
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
    """Return a copy of a new backbone with these weights and their latent, if any."""
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
    """Load a teacher's weights into a new backbone, in place, and attach the latent, unless None.

    See `Family.start_from`.
    """
    sizes = None if latent is None else backbone_sizes(backbone, positions, latent)
    FAMILY.start_from(backbone, fitting(backbone, weights), latent, sizes, process)
    return backbone
