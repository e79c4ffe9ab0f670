"""Teacher sources: the values of `teacher=`.

`scheme:rest` is handled by the teacher source registered as `scheme`; anything else is a file, a
folder or a hub id.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.schemes import has_scheme, load_scheme
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError
from di4c_plugin.families import family_of
from di4c_plugin.hosts.base import Host, OpenHost
from di4c_plugin.hosts.choose import host_of_kind
from di4c_plugin.plugins import lookup, names_of


def load_source(
    source: str | Path, *, ema: bool = True, options: Mapping[str, Any] | None = None
) -> Model:
    """Return the model that `source` names, in eval mode, on the CPU.

    Args:
        source: "builtin:digits", "file:PATH" or another registered scheme; the path of a model
            file of ours, a checkpoint of MDLM, SDTT, Duo, MaskGIT, Halton-MaskGIT or tauLDR,
            safetensors or a state dict, or of a folder with model.safetensors or
            pytorch_model.bin; or a hub id, optionally with @revision.
        ema: use the moving averages if a checkpoint has them; passed to teacher sources with such
            an argument.
        options: of the file's host (configs/host), over its defaults.

    Raises:
        UserError: for an unknown scheme or option, for ema=False with a teacher source that does
            not take it, and for the errors of the source itself.
    """
    text = str(source)
    if not has_scheme(text):
        return load_any(source, ema=ema, options=options)
    if options:
        raise UserError(
            f"{source} does not say whose options {', '.join(options)} are: name a host"
        )
    return load_scheme(text, ema=ema)


def load_file(path: str | Path, *, ema: bool = True) -> Model:
    """Return the model at a path; the teacher source "file".

    Raises:
        UserError: as `load_source`.
    """
    return load_any(Path(path), ema=ema)


def load_any(
    source: str | Path, *, ema: bool = True, options: Mapping[str, Any] | None = None
) -> Model:
    """Return the model at a path or hub id, loaded by its own host.

    Raises:
        UserError: as `load_source`.
    """
    content = read_content(source)
    family = family_of(content)
    weights = family.read(content, ema=ema)
    host: OpenHost = host_of(weights, family.name)(**(options or {}))
    return host.load(weights)


def host_of(weights: Weights, kind: str) -> Host:
    """Return the host that the weights name, else one with this kind of networks."""
    info = weights.notes.get("info")
    entry = info.get("host") if isinstance(info, Mapping) else None
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if isinstance(name, str) and name in names_of("host"):
        host: Host = lookup("host", name)
        if host.family.name == kind:
            return host
    return host_of_kind(kind, weights)
