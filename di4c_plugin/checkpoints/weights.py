"""Weights of a DiT from whatever the user has: hub, Lightning checkpoint, safetensors, folder.

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

from di4c_plugin.checkpoints.description import check_parts, read_description
from di4c_plugin.checkpoints.model_file import is_safetensors, read_safetensors
from di4c_plugin.checkpoints.naming import backbone_tensors, with_averages
from di4c_plugin.checkpoints.places import Source, locate
from di4c_plugin.checkpoints.storages import check_total
from di4c_plugin.checkpoints.stubs import plain
from di4c_plugin.checkpoints.torch_file import load_inert
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

# The released students of Di4C say nothing of their latent but have its weights.
OFFICIAL_LATENT = "latent_projection."


@dataclass(frozen=True)
class Weights:
    """What a source holds.

    Attributes:
        tensors: by the names of the hosts' DIT (`vocab_embed.embedding`, `blocks.0. …`), on the
            CPU, without rotary buffers; a student's latent beside them (`latent_projection. …`).
        latent: name and options of a student's latent; None for a product model.
        config: what is known of the network and its training: the host's config, or a config.json.
        process: the forward process, where the source says it in our words.
        origin: what the user named, with the commit for the hub.
        fingerprint: sha256 over names, shapes, types and values.
        notes: what else our own checkpoints say: teacher, round, sizes of the network, vocabulary.
        tokenizer: that of the training, where something beside our own notes says it.
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
        """Return the tokens of the model, which has this process; None where nothing says them.

        Raises:
            UserError: if the file's own note of it is damaged.
        """
        for notes in (self.notes, self.notes.get("info", {})):
            if (said := vocabulary_in(notes, self.origin)) is not None:
                return said
        return None if self.tokenizer is None else self.tokenizer.vocabulary(process)


@dataclass
class _Found:
    """A state dict on its way to `Weights`."""

    state: Mapping[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None


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
    return read_located(locate(source), ema=ema)


def read_located(source: Source, *, ema: bool = True) -> Weights:
    """Read the weights of a file that was found; errors as for `read_weights`."""
    path = source.path
    with refusing(f"{source.origin} cannot be read"):
        if is_safetensors(path):
            found = _read_safetensors(path)
        else:
            found = _read_torch(path, ema, source.origin)
        found.config = found.config or source.config
        if found.tokenizer is None or not found.tokenizer.ids:
            named = configured_tokenizer(found.config) or found.tokenizer
            name = source.origin if named is None else named.name
            found.tokenizer = tokenizer_beside(path, name) or named
        return _finish(found, source.origin, path.stat().st_size)


def _read_safetensors(path: Path) -> _Found:
    text, state = read_safetensors(path)
    return _Found(state, notes={} if text is None else read_description(text, str(path)))


def _read_torch(path: Path, ema: bool, origin: str) -> _Found:
    content = load_inert(path, mmap=True)
    state = _state_dict(content)
    notes = _notes(content)
    averages = _averages(content) if ema else None
    if averages is not None:
        state = with_averages(state, averages, notes.get("ema_names"), origin)
    parameters = content.get("hyper_parameters")
    tokenizer = parameters.get("tokenizer") if isinstance(parameters, Mapping) else None
    return _Found(state, host_config(parameters), notes, pickled_tokenizer(tokenizer))


def _notes(content: dict[str, Any]) -> dict[str, Any]:
    """Return what our own trainer wrote beside the weights, without the tensors in it."""
    notes = plain(content.get("di4c", {}))
    if not isinstance(notes, dict):
        return {}
    if isinstance(notes.get("teacher"), dict):
        notes["teacher"].pop("weights", None)  # those of an earlier round, to resume from
    return notes


def _state_dict(content: dict[str, Any]) -> Mapping[str, Any]:
    """Return the state dict in a checkpoint, or the checkpoint itself, which may be one."""
    for name in ("state_dict", "model"):
        if isinstance(content.get(name), Mapping):
            return content[name]
    return {str(key): value for key, value in content.items()}


def _averages(content: dict[str, Any]) -> list[Any] | None:
    """Return the list of moving averages in a checkpoint of a host; None without."""
    ema = content.get("ema")
    averages = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    return list(averages) if averages else None


def host_config(parameters: Any) -> dict[str, Any]:
    """Return the host's config out of a checkpoint's hyper-parameters, as plain values.

    Its tokenizer adds "mask_index", where it has a mask token.
    """
    if not isinstance(parameters, Mapping):
        return {}
    config = plain(parameters.get("config", parameters))
    config = config if isinstance(config, dict) else {}
    mask = mask_index(parameters.get("tokenizer"))
    return config if mask is None else config | {"mask_index": mask}


def _finish(found: _Found, origin: str, size: int) -> Weights:
    tensors = backbone_tensors(found.state, origin)
    check_total(tensors, size, origin)
    # Clones: a memory-mapped file may be rewritten while the model is in use.
    tensors = {k: v.detach().clone() for k, v in tensors.items()}
    config = found.config | _inherited(found.state)
    described = found.notes or config.get("di4c", {})
    notes = check_parts(described if isinstance(described, Mapping) else {}, origin)
    latent = notes.get("latent")
    if latent is None and any(name.startswith(OFFICIAL_LATENT) for name in tensors):
        latent = {"name": "token"}
    process, digest = notes.get("process"), fingerprint(tensors)
    return Weights(tensors, latent, config, process, origin, digest, notes, found.tokenizer)


def _inherited(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what only the dropped rotary buffer tells: half the width of an attention head."""
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
