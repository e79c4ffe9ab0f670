"""Halton-MaskGIT as a host; the numbers of codes and classes follow from its weights."""

from di4c_plugin.families.halton import HaltonNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.grid import KEPT, GridData
from di4c_plugin.programs.halton_maskgit import PROGRAM

HOST = Host(
    "halton_maskgit",
    HaltonNetworks(),
    GridData,
    program=PROGRAM,
    kept=KEPT,
)
