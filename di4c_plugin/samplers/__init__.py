"""Samplers, from noise to data: each file is a paper's algorithm, `Sampler` what all of them share.

A sampler of one's own is a function of `hookspecs.di4c_samplers`; `walk` is the loop of ours.
"""

from di4c_plugin.samplers.ancestral import ancestral, hybrid
from di4c_plugin.samplers.base import Callback, Step, walk
from di4c_plugin.samplers.blocks import blocks
from di4c_plugin.samplers.guidance import Guided
from di4c_plugin.samplers.maskgit import halton, maskgit
from di4c_plugin.samplers.sampler import Sampler, as_method, sampler_named, sampler_options
from di4c_plugin.samplers.tau_leaping import tau_leaping

__all__ = [
    "Callback",
    "Guided",
    "Sampler",
    "Step",
    "ancestral",
    "as_method",
    "blocks",
    "halton",
    "hybrid",
    "maskgit",
    "sampler_named",
    "sampler_options",
    "tau_leaping",
    "walk",
]
