"""Adapters: one room for each host, the only places that know a host's names.

What is exported is loaded when first asked for: Hydra imports this package in every Hydra app, and
`di4c run` does before torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from di4c_plugin.hosts.base import Host
    from di4c_plugin.hosts.sources import find_latent, load_source

__all__ = ["Host", "find_latent", "load_source"]


def __getattr__(name: str) -> Any:
    """Load an exported name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "base" if name == "Host" else "sources"
    return getattr(importlib.import_module(f"di4c_plugin.hosts.{module}"), name)
