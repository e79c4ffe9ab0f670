"""Halton-MaskGIT as a host; the numbers of codes and classes follow from its weights."""

from di4c_plugin.data.vq import load_llamagen
from di4c_plugin.families.halton import HaltonNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.grid import KEPT, GridData
from di4c_plugin.programs.halton_maskgit import PROGRAM


class LlamaGenCodes(GridData):
    """Codes of LlamaGen, as the host's --vqgan-folder has them."""

    load = load_llamagen


HOST = Host(
    "halton_maskgit",
    HaltonNetworks(),
    LlamaGenCodes,
    program=PROGRAM,
    kept=KEPT,
)
