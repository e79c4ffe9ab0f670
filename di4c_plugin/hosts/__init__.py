"""Adapters: one room for each host, the only places that know a host's names.

What is exported is loaded when first asked for: Hydra imports this package in every Hydra app, and
`di4c run` does before torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from di4c_plugin.hosts.base import Host
    from di4c_plugin.hosts.choose import host_for
    from di4c_plugin.hosts.sources import load_source

# By name: the module that it is in.
MODULES = {"Host": "base", "host_for": "choose", "load_source": "sources"}

__all__ = ["Host", "host_for", "load_source"]


def __getattr__(name: str) -> Any:
    """Load an exported name."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"di4c_plugin.hosts.{MODULES[name]}"), name)
