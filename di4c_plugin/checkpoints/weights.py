"""Weights of a DiT from any source: hub, Lightning checkpoint, safetensors, folder.

Nothing of a pickle is executed (`pickles`), averages are mapped by name (`naming`), and names come
out as the hosts' DIT has them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.checkpoints.content import Content, read_content
from di4c_plugin.checkpoints.description import check_parts
from di4c_plugin.checkpoints.naming import backbone_tensors, with_averages
from di4c_plugin.checkpoints.storages import check_total
from di4c_plugin.checkpoints.stubs import plain
from di4c_plugin.checkpoints.vocabulary import (
    Tokenizer,
    Vocabulary,
    configured_tokenizer,
    mask_index,
    pickled_tokenizer,
    tokenizer_beside,
    vocabulary_in,
)
from di4c_plugin.errors import refusing

OFFICIAL = "latent_projection."  # of the released students of Di4C


@dataclass(frozen=True)
class Weights:
    """The weights of a source, with everything known about them.

    Attributes:
        tensors: by the names of the hosts' DIT (`vocab_embed.embedding`, `blocks.0. …`), on the
            CPU, without rotary buffers; a student's latent beside them (`latent_projection. …`).
        latent: name and options of a student's latent; None for a product model.
        config: of the network and its training: the host's config, or a config.json.
        process: the forward process, where the source has it in our format.
        origin: what the user named, with the commit for the hub.
        fingerprint: sha256 over names, shapes, types and values.
        notes: other entries of our own checkpoints: teacher, round, sizes, vocabulary.
        tokenizer: of the training, from anything but our own notes.
    """

    tensors: dict[str, Tensor]
    latent: dict[str, Any] | None
    config: dict[str, Any]
    process: dict[str, Any] | None
    origin: str
    fingerprint: str
    notes: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None

    def vocabulary(self, process: Mapping[str, Any]) -> Vocabulary | None:
        """Return the vocabulary of the model, given its process; None where it is unknown.

        Raises:
            UserError: if the file's own entry is damaged.
        """
        for notes in (self.notes, self.notes.get("info", {})):
            if (recorded := vocabulary_in(notes, self.origin)) is not None:
                return recorded
        return None if self.tokenizer is None else self.tokenizer.vocabulary(process)


def read_weights(source: str | Path, *, ema: bool = True) -> Weights:
    """Read the weights that `source` names.

    Args:
        source: a file (Lightning .ckpt, safetensors, plain state dict), a folder with
            model.safetensors or pytorch_model.bin, or a hub id with optional @revision.
        ema: take the moving averages where a checkpoint has some.

    Raises:
        UserError: one line; no such file, repository or revision, no checkpoint, no DiT in it, or
            an EMA that does not fit.
    """
    return weights_in(read_content(source), ema=ema)


def weights_in(content: Content, *, ema: bool = True) -> Weights:
    """Return the weights of the DiT that a file holds; errors as for `read_weights`."""
    origin, state, entries = content.origin, content.state, content.entries
    with refusing(f"{origin} cannot be read"):
        notes = content.description or _notes(entries)
        averages = _averages(entries) if ema else None
        if averages is not None:
            state = with_averages(state, averages, notes.get("ema_names"), origin)
        config = host_config(entries.get("hyper_parameters")) or content.config
        tokenizer = _tokenizer(content, config)
        tensors = backbone_tensors(state, origin)
        check_total(tensors, content.size, origin)
        # Clones: a memory-mapped file may be rewritten while the model is in use.
        tensors = {k: v.detach().clone() for k, v in tensors.items()}
        config = config | _inherited(state)
        described = notes or config.get("di4c", {})
        notes = check_parts(described if isinstance(described, Mapping) else {}, origin)
        latent = notes.get("latent") or official_latent(tensors)
        process, digest = notes.get("process"), fingerprint(tensors)
        return Weights(tensors, latent, config, process, origin, digest, notes, tokenizer)


def _tokenizer(content: Content, config: dict[str, Any]) -> Tokenizer | None:
    """Return the tokenizer that is pickled with the weights, lies beside them, or is named."""
    parameters = content.entries.get("hyper_parameters")
    pickled = parameters.get("tokenizer") if isinstance(parameters, Mapping) else None
    tokenizer = pickled_tokenizer(pickled)
    if tokenizer is not None and tokenizer.ids:
        return tokenizer
    named = configured_tokenizer(config) or tokenizer
    name = content.origin if named is None else named.name
    return tokenizer_beside(content.path, name) or named


def official_latent(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the latent of a released student of Di4C, which has no description; else None."""
    return {"name": "token"} if any(name.startswith(OFFICIAL) for name in tensors) else None


def _notes(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that our trainer wrote beside the weights, without their tensors."""
    notes = plain(content.get("di4c", {}))
    if not isinstance(notes, dict):
        return {}
    if isinstance(notes.get("teacher"), dict):
        notes["teacher"].pop("weights", None)  # those of an earlier round, to resume from
    return notes


def _averages(content: Mapping[str, Any]) -> list[Any] | None:
    """Return the list of moving averages in a checkpoint of a host; None without."""
    ema = content.get("ema")
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    return list(averages) if averages else None


def host_config(parameters: Any) -> dict[str, Any]:
    """Return the host's config from a checkpoint's hyper-parameters, as plain values.

    Its tokenizer adds "mask_index", where it has a mask token.
    """
    if not isinstance(parameters, Mapping):
        return {}
    config = plain(parameters.get("config", parameters))
    config = config if isinstance(config, dict) else {}
    mask = mask_index(parameters.get("tokenizer"))
    return config if mask is None else config | {"mask_index": mask}


def _inherited(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the width of an attention head, which only the dropped rotary buffer tells."""
    buffers = [v for k, v in state.items() if k.endswith("rotary_emb.inv_freq")]
    return {"head_size": 2 * len(buffers[0])} if buffers else {}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, shapes, types and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
