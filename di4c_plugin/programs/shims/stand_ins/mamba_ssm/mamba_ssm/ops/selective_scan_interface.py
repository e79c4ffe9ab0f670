"""Stand-in for `mamba_ssm.ops.selective_scan_interface`."""

from di4c_plugin.programs.shims.refuse import refuses

mamba_inner_fn = refuses("mamba_ssm", "mamba_inner_fn", "mamba-ssm")
selective_scan_fn = refuses("mamba_ssm", "selective_scan_fn", "mamba-ssm")
