"""Stand-in for `mamba_ssm.ops.triton.selective_state_update`."""

from di4c_plugin.programs.shims.refuse import refuses

selective_state_update = refuses("mamba_ssm", "selective_state_update", "mamba-ssm")
