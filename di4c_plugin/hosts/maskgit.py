"""MaskGIT-pytorch v1 as a host; lambda by default as in the official student."""

from di4c_plugin.checkouts import host_named
from di4c_plugin.families.maskgit import MaskGITNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.grid import KEPT, GridData

HOST = Host(
    "maskgit",
    MaskGITNetworks(),
    GridData,
    program=host_named("maskgit"),
    latent="token",
    kept={**KEPT, "classes": int, "codes": int},
)
