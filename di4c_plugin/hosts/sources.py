"""Teacher sources: what a user may write behind `teacher=`, and the latents a model file may name.

`scheme:rest` goes to the teacher source registered as `scheme`; anything else is a file, a folder
or a hub id.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints.model import Model, load_model
from di4c_plugin.checkpoints.ours import our_kind
from di4c_plugin.checkpoints.places import locate
from di4c_plugin.checkpoints.schemes import has_scheme, load_scheme
from di4c_plugin.checkpoints.weights import read_located
from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import model_of
from di4c_plugin.plugins import make


def load_source(
    source: str | Path, *, ema: bool = True, options: Mapping[str, Any] | None = None
) -> Model:
    """Return the model that `source` names, in eval mode, on the CPU.

    Args:
        source: "builtin:digits", "file:PATH", or what a plugin registered; a path: a model file of
            ours, a checkpoint of MDLM, SDTT, Duo, MaskGIT, Halton-MaskGIT or tauLDR, safetensors,
            a state dict, or a folder with model.safetensors or pytorch_model.bin; or a hub id with
            optional @revision.
        ema: take the moving averages where a checkpoint has some; it is handed to a teacher source
            that takes it.
        options: of the image host that the file is of (configs/host), in place of its defaults.

    Raises:
        UserError: for an unknown scheme, options where there is no such host, ema=False for a
            teacher source that does not take it, or as the source itself says.
    """
    text = str(source)
    if not has_scheme(text):
        return load_any(source, ema=ema, options=options)
    check_none(source, options)
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
    """Return the model of a path or hub id, its latent found among all plugins.

    Raises:
        UserError: as `load_source`.
    """
    found = locate(source)
    host = image_host(found.path, options or {})
    if host is not None:
        return host.load_teacher(found.path, ema=ema)
    check_none(source, options)
    if our_kind(found.path) is not None:
        return load_model(found.path)
    return model_of(read_located(found, ema=ema))


def check_none(source: str | Path, options: Mapping[str, Any] | None) -> None:
    """Refuse options of a host where the source is of none; raises UserError."""
    if options:
        raise UserError(
            f"{source} does not say whose options {', '.join(options)} are: name a host"
        )


def image_host(path: Path, options: Mapping[str, Any]) -> Any:
    """Return the image host whose network a file holds, with these options, or None."""
    kind = image_kind(path)
    return None if kind is None else make("host", {"name": kind} | dict(options))


def image_kind(path: Path) -> str | None:
    """Return the name of the image host whose network a file holds, or None."""
    from di4c_plugin.families.files import KINDS, kind_of

    kind = our_kind(path) or kind_of(path)
    return kind if kind in KINDS else None
