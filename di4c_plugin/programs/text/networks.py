"""Teacher and student on a host's own backbone class."""

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from di4c_plugin.announce import announce_once
from di4c_plugin.checkpoints.model import load_weights
from di4c_plugin.checkpoints.vocabulary import Vocabulary
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import process_of, said, tells_process
from di4c_plugin.networks.attach import attach_latent, backbone_sizes
from di4c_plugin.networks.latent import new_injector

EMBEDDING = "vocab_embed.embedding"
# Rotations are a function of the architecture; some files hold them, some do not.
DERIVED = "rotary_emb.inv_freq"
PARTS = ("vocab_embed", "sigma_map", "rotary_emb", "blocks", "output_layer")


def with_latent(
    backbone: nn.Module, latent: dict[str, Any], process: Process, positions: int
) -> nn.Module:
    """Return the host's backbone with a latent, in place; raises UserError as `attach_latent`."""
    injector = new_injector(backbone_sizes(backbone, positions), latent)
    attach_latent(backbone, injector, mask=getattr(process, "mask", None))
    return backbone


def load_backbone(backbone: nn.Module, weights: Weights) -> None:
    """Load weights by name into a backbone of the same architecture.

    Raises:
        UserError: naming what does not fit, the vocabulary first.
    """
    own, given = backbone.state_dict(), dict(weights.tensors)
    if EMBEDDING in given and EMBEDDING in own and len(given[EMBEDDING]) != len(own[EMBEDDING]):
        raise UserError(
            f"{weights.origin} has a vocabulary of {len(given[EMBEDDING])} tokens, this run's "
            f"tokenizer has {len(own[EMBEDDING])} (with the mask): use the teacher's tokenizer"
        )
    given |= {name: own[name] for name in own if name.endswith(DERIVED)}
    load_weights(backbone, given, weights.origin)


def check_weights(weights: Weights, process: Process, *, time_conditioned: bool) -> None:
    """Refuse weights of another kind of model than the one they are to be loaded into.

    Raises:
        UserError: for autoregressive models and scores, another process, another mask, and a
            network that was trained with the time where this run gives none, or without it.
    """
    theirs, ours = process_of(weights), process.config
    knows_mask = "mask_index" in weights.config or weights.process is not None
    said_of_it = ["name"] * tells_process(weights) + ["mask"] * knows_mask
    for key in said_of_it:
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{weights.origin} is for the process {theirs}, this run has {ours}: {key} differs"
            )
    sizes = weights.notes.get("network", {})
    said_time = sizes.get("time_conditioning", said(weights.config, "time_conditioning"))
    if said_time is not None and bool(said_time) != time_conditioned:
        raise UserError(
            f"{weights.origin} was trained with time_conditioning={bool(said_time)}, this run has "
            f"time_conditioning={time_conditioned}"
        )


def check_vocabulary(weights: Weights, process: Process, own: Vocabulary | None) -> None:
    """Refuse weights of another vocabulary than this run's; say so where theirs is not known.

    Raises:
        UserError: naming both tokenizers.
    """
    theirs = weights.vocabulary(process.config)
    if own is None:
        return
    if theirs is not None:
        theirs.check(own, weights.origin, "this run")
    elif weights.tokenizer is None or weights.tokenizer.name != own.name:
        said = (
            "which tokens it knows"
            if weights.tokenizer is None
            else (f"which tokens its tokenizer {weights.tokenizer.name} has")
        )
        announce_once(f"{weights.origin} does not say {said}: taken for those of {own}")


def restore(backbone: nn.Module, weights: Weights, process: Process, positions: int) -> nn.Module:
    """Return a copy of an untouched backbone with these weights and, if need be, their latent."""
    network = copy.deepcopy(backbone)
    if weights.latent is not None:
        with_latent(network, weights.latent, process, positions)
    load_backbone(network, weights)
    return network


def new_student(
    backbone: nn.Module,
    latent: dict[str, Any] | None,
    weights: Weights,
    process: Process,
    positions: int,
) -> nn.Module:
    """Give an untouched backbone, in place, the teacher's weights and, unless it is None, a latent.

    If the teacher is a student with a latent of the same kind and sizes that enters the same
    blocks, its injector carries over; otherwise the injector starts as its class says.
    """
    if latent is not None:
        with_latent(backbone, latent, process, positions)
    fresh = {n: v for n, v in backbone.state_dict().items() if is_latent(n)}
    if weights.latent is None or latent is None or not same_latent(weights, latent, fresh):
        kept = weights.latent is None
        tensors = {n: v for n, v in weights.tensors.items() if kept or not is_latent(n)}
        weights = replace(weights, tensors=fresh | tensors)
    load_backbone(backbone, weights)
    return backbone


def same_latent(weights: Weights, latent: dict[str, Any], fresh: dict[str, Tensor]) -> bool:
    """Whether the teacher's latent is the student's: of its kind, for its blocks, of its sizes."""
    given = {n: v.shape for n, v in weights.tensors.items() if is_latent(n)}
    theirs = weights.latent or {}
    same = all(theirs.get(key) == latent.get(key) for key in ("name", "blocks"))
    return same and given == {n: v.shape for n, v in fresh.items()}


def is_latent(name: str) -> bool:
    """Whether a weight is an injector's: all others lie under the parts of a DiT."""
    return name.split(".")[0] not in PARTS
