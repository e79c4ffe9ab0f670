"""The host that a model belongs to: for its pictures, and the data to compare samples with.

A model's file is anybody's: no path, root or program is taken from it.
"""

import re
from collections.abc import Mapping
from typing import Any

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.hosts.base import Host, OpenHost
from di4c_plugin.plugins import lookup, make, names_of

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
        name: of a host; None: what the model's own description says, or its kind of network.
        options: of the host (configs/host/<name>.yaml), in place of those.

    Raises:
        UserError: for an unknown host, options that it does not take, and a description that holds
            something else than sizes and switches.
    """
    described = model.info.get("host")
    described = described if isinstance(described, Mapping) else {}
    own = described.get("name")
    own = own if isinstance(own, str) else None
    if name is None:
        name = own or host_of_kind(model.network.kind).name
    wanted = described.keys() - options.keys() if own == name else set()
    kept = kept_options(name, {key: described[key] for key in wanted})
    host: OpenHost = make("host", kept | {"name": name} | options)
    host.adopt(model)
    return host


def host_of_kind(kind: str, weights: Weights | None = None) -> Host:
    """Return the host whose networks are of this kind: of several, the one that wrote the weights.

    Raises:
        UserError: for a kind that no host has.
    """
    hosts = [lookup("host", name) for name in names_of("host")]
    found: list[Host] = [host for host in hosts if host.family.name == kind]
    if not found:
        raise UserError(f"unknown host {kind!r}: no host has such networks")
    sure = (host for host in found if weights and host.wrote and host.wrote(weights))
    return next(sure, found[0])


def kept_options(host: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options in the description of a model that are sizes and switches of its host.

    Raises:
        UserError: if one of them holds something else.
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
    """Tell whether a value out of a file is a small one of this kind, see `Host.kept`."""
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
