"""Finds the host of a model, for its data and pictures.

Model files are untrusted: no path, root or program is taken from them.
"""

import re
from collections.abc import Mapping
from typing import Any

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.hosts.base import Host, OpenHost
from di4c_plugin.plugins import lookup, make, names_of
from di4c_plugin.values import shown

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
MOST = 10**9
KINDS = {
    bool: "no true or false",
    dict: "no process",
    float: "no number",
    int: "no whole number",
    str: "no name",
}


def host_for(model: Model, name: str | None = None, **options: Any) -> OpenHost:
    """Return the host of a model, with the sizes and switches that the model was trained with.

    Args:
        model: teacher or student.
        name: of a host; None: by the model's info, else by its kind of network.
        options: of the host (configs/host/<name>.yaml), over those in the model's info.

    Raises:
        UserError: for an unknown host or option, and for values in the model's info that are not
            sizes or switches.
    """
    described = model.info.get("host")
    described = described if isinstance(described, Mapping) else {}
    recorded = described.get("name")
    recorded = recorded if isinstance(recorded, str) else None
    if name is None:
        name = recorded or host_of_kind(model.network.kind).name
    names = described.keys() - options.keys() if recorded == name else set()
    kept = kept_options(name, {key: described[key] for key in names})
    host: OpenHost = make("host", kept | {"name": name} | options)
    host.adopt(model)
    return host


def as_host(host: str | Mapping[str, Any] | Host | OpenHost | None, teacher: Model) -> OpenHost:
    """Return the open host that `distill` was given, with the teacher; raises UserError."""
    if isinstance(host, Host | OpenHost):
        opened = host() if isinstance(host, Host) else host
        opened.adopt(teacher)
        return opened
    if not isinstance(host, str | Mapping | None):
        raise UserError(f"host must be a name or a mapping of options, not {shown(host)}")
    options = dict(host) if isinstance(host, Mapping) else {"name": host}
    return host_for(teacher, **options)


def host_of_kind(kind: str, weights: Weights | None = None) -> Host:
    """Return the host with this kind of networks; of several, the one that wrote the weights.

    Raises:
        UserError: if no host has this kind.
    """
    registered = [lookup("host", name) for name in names_of("host")]
    matching: list[Host] = [host for host in registered if host.family.name == kind]
    if not matching:
        raise UserError(f"unknown host {kind!r}: no host has such networks")
    writers = (host for host in matching if weights and host.wrote and host.wrote(weights))
    return next(writers, matching[0])


def kept_options(host: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options in a model's info that its host keeps: sizes and switches.

    Raises:
        UserError: for a value of the wrong type.
    """
    types: Mapping[str, type] = lookup("host", host).kept
    kept = {k: v for k, v in described.items() if k in types and v is not None}
    for option, value in sorted(kept.items()):
        if not is_plain(value, types[option]):
            raise UserError(
                f"the file of this model gives {option} of host {host!r} as {quoted(value)}, "
                f"{KINDS.get(types[option], 'which is refused')}: say {option} yourself, or null"
            )
    return kept


def is_plain(value: Any, kind: type) -> bool:
    """Return whether a value from a file is a small one of this type, see `Host.kept`."""
    if kind is dict and isinstance(value, Mapping):
        return all(is_plain(key, str) and _is_part(inner) for key, inner in value.items())
    if kind in (dict, str):
        return isinstance(value, str) and NAME.fullmatch(value) is not None
    fits = isinstance(value, int | float) and type(value) in (kind, int if kind is float else kind)
    return fits and -MOST <= value <= MOST


def _is_part(value: Any) -> bool:
    if isinstance(value, list):
        return all(is_plain(number, float) for number in value)
    return value is None or any(is_plain(value, kind) for kind in (bool, float, str))
