"""The host that a model belongs to: for its pictures, and the data to compare samples with.

Tests: tests/hosts/test_choose.py.
"""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.hosts.base import Host
from di4c_plugin.models import Model
from di4c_plugin.plugins import make

# Whose data and pictures go with our own networks, unless something else is said.
DEFAULTS = {"transformer": "builtin", "dit": "builtin"}


def host_for(model: Model, name: str | None = None, **options: Any) -> Host:
    """Return the host of a model, with the options that the model was trained with.

    Args:
        model: teacher or student.
        name: of a host; None: what the model's own description says, or its kind of network.
        options: of the host (configs/host/<name>.yaml), in place of those.

    Raises:
        UserError: for an unknown host, and options that it does not take.
    """
    described = model.info.get("host")
    kept = dict(described) if isinstance(described, Mapping) else {}
    if name is None:
        name = kept.get("name") or DEFAULTS.get(model.network.kind, model.network.kind)
    if kept.get("name") != name:
        kept = {}
    host: Host = make("host", kept | {"name": name} | options)
    host.adopt(model)
    return host
