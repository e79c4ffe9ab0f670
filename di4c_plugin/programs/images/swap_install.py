"""Puts our sampler, and for tauLDR our loss, into a host's program when its modules are imported.

Nothing but the standard library is imported before the host itself is.
"""

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.shims.after_import import Patch, after_import

HALTON = {
    "Sampler.halton_sampler": "HaltonSampler",
    "Sampler.confidence_sampler": "ConfidenceSampler",
}


def install(host: str, root: Path, flags: Flags | None) -> None:
    """Have the modules of a host get ours; with no flags that is tauLDR's registration only."""
    for module, patch in patches(host, root, flags).items():
        after_import(module, patch)


def patches(host: str, root: Path, flags: Flags | None) -> dict[str, Patch]:
    """Return by module what is done to it."""
    if host == "tauldr":
        return _tauldr(root, flags)
    if flags is None:
        return {}
    if host == "maskgit":
        return {"Trainer.vit": lambda vit: _maskgit(vit, flags, root)}
    return _halton(flags, root)


def _maskgit(vit: ModuleType, flags: Flags, root: Path) -> None:
    from di4c_plugin.programs.images import swap_maskgit

    swap_maskgit.install(vit, flags, root)


def _halton(flags: Flags, root: Path) -> dict[str, Patch]:
    @cache  # the student is loaded once
    def ours() -> Any:
        from di4c_plugin.programs.images.swap import Ours

        return Ours(flags, "halton_maskgit", root)

    def patch_of(name: str) -> Patch:
        def patch(module: ModuleType) -> None:
            from di4c_plugin.programs.images import swap_halton

            swap_halton.install(module, name, flags, ours())

        return patch

    return {module: patch_of(name) for module, name in HALTON.items()}


def _tauldr(root: Path, flags: Flags | None) -> dict[str, Patch]:
    def sampler(module: ModuleType) -> None:
        from di4c_plugin.programs.images import swap_tauldr

        swap_tauldr.register(module, flags, root)

    def loss(module: ModuleType) -> None:
        from di4c_plugin.programs.images import registered

        registered.register_loss(module, root)

    def train_step(module: ModuleType) -> None:
        from di4c_plugin.programs.images import registered

        registered.register_train_step(module)

    def model(module: ModuleType) -> None:
        from di4c_plugin.programs.images import registered

        registered.let_latents_in(module)

    return {
        "lib.sampling.sampling_utils": sampler,
        "lib.losses.losses_utils": loss,
        "lib.training.training_utils": train_step,
        "lib.models.model_utils": model,
    }
