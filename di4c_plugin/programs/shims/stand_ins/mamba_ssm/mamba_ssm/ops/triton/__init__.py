"""Stand-in for `mamba_ssm.ops.triton`; the host does without its `layernorm`."""
