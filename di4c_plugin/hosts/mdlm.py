"""MDLM as a host: its program trains on text, and `algo=…` there distils its teachers."""

from di4c_plugin.families.dit import LATENT, DiTNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import BlockData
from di4c_plugin.programs.mdlm import PROGRAM

HOST = Host("mdlm", DiTNetworks(), BlockData, program=PROGRAM, latent=LATENT)
