"""Masked language models of transformers as a host: BERT and its kin, LLaDA, Dream, SDAR."""

from di4c_plugin.families.hf import HFNetworks
from di4c_plugin.hosts.base import Host

HOST = Host("hf", HFNetworks(), latent="mask_noise")
