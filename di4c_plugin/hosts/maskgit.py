"""MaskGIT-pytorch v1 as a host; lambda by default as in the official student."""

from di4c_plugin.data.vq import load_taming
from di4c_plugin.families.maskgit import MaskGITNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.grid import KEPT, GridData
from di4c_plugin.programs.maskgit import PROGRAM


class TamingCodes(GridData):
    """Codes of taming-transformers, as the host's --vqgan-folder has them."""

    load = load_taming


HOST = Host(
    "maskgit",
    MaskGITNetworks(),
    TamingCodes,
    program=PROGRAM,
    latent="token",
    kept={**KEPT, "classes": int, "codes": int},
)
