"""MaskGIT-pytorch v1's own program, with our sampler in place of its `MaskGIT.sample`.

Only the standard library is imported before the host.
"""

from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import Patch, Program
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.maskgit.remedies import METRICS_WITHOUT_GPU, NUMPY_FLOAT
from di4c_plugin.programs.shims.remedies import OLD_CHECKPOINTS


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `Program.patches`: nothing without flags."""

    def patch(vit: ModuleType) -> None:
        from di4c_plugin.programs.maskgit import sampler

        assert flags is not None
        sampler.install(vit, flags, root)

    return {} if flags is None else {"Trainer.vit": patch}


PROGRAM = Program(
    name="maskgit",  # the archived first generation: branch v1.0
    url="https://github.com/valeoai/Maskgit-pytorch.git",
    commit="674ef1d934963b7550ad9068015e705a525ceecb",
    marks=("main.py", "Trainer/vit.py", "Network/Taming/models/vqgan.py"),
    script="main.py",
    digest="87083ac752b327ba6ee3d0c2627a5db0a39a44ee4c7f04a8535b990fb2074daa",
    needs="PIL clip einops requests scipy sklearn tensorboard torchmetrics "
    "torchvision tqdm webdataset",
    remedies=(OLD_CHECKPOINTS, METRICS_WITHOUT_GPU, NUMPY_FLOAT),
    patches=patches,
)
