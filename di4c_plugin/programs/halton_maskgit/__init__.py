"""Halton-MaskGIT's own program, with our sampler in place of its two.

Only the standard library is imported before the host.
"""

from functools import partial
from pathlib import Path
from types import ModuleType

from di4c_plugin.checkouts import Patch, Program
from di4c_plugin.programs.images.program import SamplerFlags
from di4c_plugin.programs.shims.remedies import OLD_CHECKPOINTS

SAMPLERS = {
    "Sampler.halton_sampler": "HaltonSampler",
    "Sampler.confidence_sampler": "ConfidenceSampler",
}


def patches(root: Path, flags: SamplerFlags | None) -> dict[str, Patch]:
    """See `Program.patches`: nothing without flags."""

    def patch(name: str, module: ModuleType) -> None:
        from di4c_plugin.programs.halton_maskgit import sampler

        assert flags is not None
        sampler.install(module, name, flags, root)

    return {} if flags is None else {k: partial(patch, name) for k, name in SAMPLERS.items()}


PROGRAM = Program(
    name="halton_maskgit",
    url="https://github.com/valeoai/Halton-MaskGIT.git",
    commit="f61b0a1314717004dc7487531fd16a8bb71e1888",
    marks=("main.py", "Trainer/cls_trainer.py", "Sampler/halton_sampler.py"),
    script="main.py",
    digest="fb372ab98f2d66f75971357027a95365dbdb2cd948befc1026d3073363759143",
    needs="PIL cleanfid einops matplotlib scipy sklearn tensorboard torch_fidelity "
    "torchmetrics torchvision tqdm webdataset",
    remedies=(OLD_CHECKPOINTS,),
    patches=patches,
    own_samplers={"halton": "halton", "confidence": "maskgit"},
)
