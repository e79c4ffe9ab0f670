"""Hosts, one small file each: a value that combines networks, data and program.

Exports are loaded lazily: Hydra imports this package in every app, and `di4c run` imports it before
torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from di4c_plugin.hosts.base import Host, HostData, OpenHost
    from di4c_plugin.hosts.choose import host_for
    from di4c_plugin.hosts.sources import load_source

# The module of each export that is not in `base`.
MODULES = {"host_for": "choose", "load_source": "sources"}

__all__ = ["Host", "HostData", "OpenHost", "host_for", "load_source"]


def __getattr__(name: str) -> Any:
    """Load an exported name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"di4c_plugin.hosts.{MODULES.get(name, 'base')}"
    return getattr(importlib.import_module(module), name)
