"""Stand-in for mamba-ssm: MDLM imports it for a backbone (dimamba) that few runs use."""

__version__ = "0.0"
