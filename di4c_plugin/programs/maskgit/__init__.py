"""MaskGIT-pytorch v1's own program: our sampler in the place of its `MaskGIT.sample`.

Nothing but the standard library is imported before the host itself is.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.shims.after_import import Patch


def patches(root: Path, flags: Flags | None) -> dict[str, Patch]:
    """Return by module what is done to it: nothing without flags."""
    if flags is None:
        return {}
    asked = flags

    def patch(vit: ModuleType) -> None:
        from di4c_plugin.programs.maskgit import sampler

        sampler.install(vit, asked, root)

    return {"Trainer.vit": patch}
