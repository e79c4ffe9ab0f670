"""SDTT as a host: its program trains on text, and `algo=…` there distils its teachers."""

from collections.abc import Mapping

from di4c_plugin.families.dit import LATENT, DiTNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import BlockData
from di4c_plugin.programs.sdtt import PROGRAM

HOST = Host(
    "sdtt",
    DiTNetworks(),
    BlockData,
    program=PROGRAM,
    latent=LATENT,
    wrote=lambda weights: isinstance(weights.config.get("parameterization"), Mapping),
)
