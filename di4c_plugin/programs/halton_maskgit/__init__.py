"""Halton-MaskGIT's own program, with our sampler in place of its two.

Only the standard library is imported before the host.
"""

from functools import partial
from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import host_named
from di4c_plugin.programs.images.program import SamplerFlags, ScriptProgram
from di4c_plugin.programs.shims.after_import import Patch

SAMPLERS = {
    "Sampler.halton_sampler": "HaltonSampler",
    "Sampler.confidence_sampler": "ConfidenceSampler",
}


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `ScriptProgram.patches`: nothing without flags."""

    def patch(name: str, module: ModuleType) -> None:
        from di4c_plugin.programs.halton_maskgit import sampler

        assert flags is not None
        sampler.install(module, name, flags, root)

    return {} if flags is None else {k: partial(patch, name) for k, name in SAMPLERS.items()}


PROGRAM = ScriptProgram(
    host_named("halton_maskgit"), patches, {"halton": "halton", "confidence": "maskgit"}
)
