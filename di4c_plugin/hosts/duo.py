"""Duo as a host: its program trains on text, and `algo=…` there distils its teachers."""

from di4c_plugin.checkouts import host_named
from di4c_plugin.families.dit import DiTNetworks, is_uniform
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import BlockData

HOST = Host(
    "duo",
    DiTNetworks(),
    BlockData,
    program=host_named("duo"),
    latent="token",
    wrote=lambda weights: "algo" in weights.config or is_uniform(weights.config),
)
