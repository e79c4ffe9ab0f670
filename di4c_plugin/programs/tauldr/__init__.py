"""tauLDR's own programs: our samplers, losses and training step under the name "Di4C".

Only the standard library is imported before the host.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import host_named
from di4c_plugin.programs.images.program import SamplerFlags, ScriptProgram
from di4c_plugin.programs.shims.after_import import Patch


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `ScriptProgram.patches`: ours are registered without flags too."""

    def samplers(module: ModuleType) -> None:
        from di4c_plugin.programs.tauldr import sampler

        sampler.register(module, flags, root)

    def losses(module: ModuleType) -> None:
        from di4c_plugin.programs.tauldr import training

        training.register_loss(module, root)

    def train_steps(module: ModuleType) -> None:
        from di4c_plugin.programs.tauldr import training

        training.register_train_step(module)

    def models(module: ModuleType) -> None:
        from di4c_plugin.programs.tauldr import training

        training.let_latents_in(module)

    def bookkeeping(module: ModuleType) -> None:
        from di4c_plugin.programs.tauldr import bookkeeping

        bookkeeping.keep_whole(module)

    return {
        "lib.sampling.sampling_utils": samplers,
        "lib.losses.losses_utils": losses,
        "lib.training.training_utils": train_steps,
        "lib.models.model_utils": models,
        "lib.utils.bookkeeping": bookkeeping,
    }


PROGRAM = ScriptProgram(host_named("tauldr"), patches)
