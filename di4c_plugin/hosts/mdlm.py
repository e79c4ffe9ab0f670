"""MDLM as a host: its program trains on text, and `algo=…` there distils its teachers."""

from di4c_plugin.checkouts import host_named
from di4c_plugin.families.dit import DiTNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import BlockData

HOST = Host("mdlm", DiTNetworks(), BlockData, program=host_named("mdlm"), latent="token")
