"""Stand-in for causal-conv1d: MDLM imports it for a backbone (dimamba) that few runs use."""

from di4c_plugin.programs.shims.refuse import refuses

__version__ = "0.0"

causal_conv1d_fn = refuses("causal_conv1d", "causal_conv1d_fn", "causal-conv1d")
causal_conv1d_update = refuses("causal_conv1d", "causal_conv1d_update", "causal-conv1d")
