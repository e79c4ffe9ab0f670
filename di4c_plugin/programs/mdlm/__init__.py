"""MDLM (Sahoo et al. 2024): its program, entered by `adapter`. Standard library only."""

from di4c_plugin.checkouts import Program
from di4c_plugin.files import configs_dir
from di4c_plugin.programs.shims.remedies import LOADERS_WITHOUT_GPU, OLD_CHECKPOINTS

PROGRAM = Program(
    name="mdlm",
    url="https://github.com/kuleshov-group/mdlm.git",
    commit="c112c526d193436838c98d81455ee51f90309470",
    marks=("main.py", "diffusion.py", "noise_schedule.py", "models/dimamba.py"),
    script="main.py",
    digest="cd91f518ac8083e699fdbc57f6ac6b3e2eb23519dd8824229e96f76a9d8eb7d4",
    needs="causal_conv1d datasets einops flash_attn fsspec huggingface_hub mamba_ssm "
    "requests rich timm tokenizers torchmetrics transformers",
    remedies=(OLD_CHECKPOINTS, LOADERS_WITHOUT_GPU),
    configs="configs",
    adapter="di4c_plugin.programs.mdlm.adapter:install",
    groups=str(configs_dir() / "hosts/mdlm"),
    files=("eval.checkpoint_path",),
)
