"""Duo as a host: its program trains on text, and `algo=…` there distils its teachers."""

from di4c_plugin.families.dit import LATENT, DiTNetworks, is_uniform
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import BlockData
from di4c_plugin.programs.duo import PROGRAM

HOST = Host(
    "duo",
    DiTNetworks(),
    BlockData,
    program=PROGRAM,
    latent=LATENT,
    wrote=lambda weights: "algo" in weights.config or is_uniform(weights.config),
)
