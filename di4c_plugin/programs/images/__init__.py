"""One of our samplers where the program of an image host calls its own.

A host, ours or a plugin's, is a `program.ScriptProgram` (how `di4c run` knows its checkout, and
which modules of it get what) and a subclass of `sampler.HostSampler` (how its evaluation calls a
sampler, how its tokens become ours and back, its options). `codes` is that for codes of a VQ
network, `shared` a denoiser by the weights that the host has loaded.
"""
