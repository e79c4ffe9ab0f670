"""Halton-MaskGIT's own program: our sampler in the place of the two that it looks up.

Nothing but the standard library is imported before the host itself is.
"""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.shims.after_import import Patch

SAMPLERS = {
    "Sampler.halton_sampler": "HaltonSampler",
    "Sampler.confidence_sampler": "ConfidenceSampler",
}


def patches(root: Path, flags: Flags | None) -> dict[str, Patch]:
    """Return by module what is done to it: nothing without flags."""
    if flags is None:
        return {}
    asked = flags

    @cache  # the student is loaded once
    def ours() -> Any:
        from di4c_plugin.programs.images.swap import Ours

        return Ours(asked, "halton_maskgit", root)

    def patch_of(name: str) -> Patch:
        def patch(module: ModuleType) -> None:
            from di4c_plugin.programs.halton_maskgit import sampler

            sampler.install(module, name, asked, ours())

        return patch

    return {module: patch_of(name) for module, name in SAMPLERS.items()}
