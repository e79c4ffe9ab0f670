"""MaskGIT-pytorch v1's own program, with our sampler in place of its `MaskGIT.sample`.

Only the standard library is imported before the host.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import host_named
from di4c_plugin.programs.images.program import SamplerFlags, ScriptProgram
from di4c_plugin.programs.shims.after_import import Patch


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `ScriptProgram.patches`: nothing without flags."""

    def patch(vit: ModuleType) -> None:
        from di4c_plugin.programs.maskgit import sampler

        assert flags is not None
        sampler.install(vit, flags, root)

    return {} if flags is None else {"Trainer.vit": patch}


PROGRAM = ScriptProgram(host_named("maskgit"), patches)
