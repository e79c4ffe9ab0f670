"""Masked language models of transformers as a host: BERT and its kin, LLaDA, Dream, SDAR."""

from di4c_plugin.families.hf import HFNetworks
from di4c_plugin.hosts.base import Host
from di4c_plugin.hosts.text import TextData

HOST = Host("hf", HFNetworks(), TextData, latent="mask_noise")
