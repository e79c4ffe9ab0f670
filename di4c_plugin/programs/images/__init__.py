"""Our samplers inside the programs of image hosts.

A host, ours or a plugin's, defines a `di4c_plugin.checkouts.Program` (how `di4c run` recognises its
checkout, and which modules are patched) and a subclass of `sampler.HostSampler` (how its evaluation
calls a sampler, the conversion of its tokens, its options). `codes` has the subclass for VQ codes,
`shared` makes a denoiser of the weights that the host has loaded.
"""
