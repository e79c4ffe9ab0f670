"""Adapters: one room for each host, the only places that know a host's names."""

from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.sources import find_latent, load_source

__all__ = ["Host", "find_latent", "load_source"]
