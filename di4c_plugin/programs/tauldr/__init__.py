"""tauLDR's own programs: our samplers, losses and training step under the name "Di4C".

Only the standard library is imported before the host.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import Patch, Program
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.shims.remedies import OLD_CHECKPOINTS


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `Program.patches`: ours are registered without flags too."""

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


PROGRAM = Program(
    name="tauldr",
    url="https://github.com/andrew-cr/tauLDR.git",
    commit="5128d4a5cce07f707780ccb03e8de2b48950aafa",
    marks=("train.py", "lib/models/models.py", "lib/sampling/sampling.py"),
    script="train.py",
    others=("scripts/sample.py",),
    digest="f81c7715ecc490f9e4de13d61c0e7a262ad398b45e11698420be0936337d7843",
    needs="PIL matplotlib ml_collections scipy tensorboard tkinter torchvision tqdm",
    remedies=(OLD_CHECKPOINTS,),
    patches=patches,
)
