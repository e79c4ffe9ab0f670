"""SDTT (Deschenaux & Gulcehre 2024): its program, entered by `adapter`. Standard library only."""

from di4c_plugin.checkouts import Program
from di4c_plugin.files import configs_dir
from di4c_plugin.programs.sdtt.remedies import MODULATION_AS_SCRIPTED
from di4c_plugin.programs.shims.remedies import OLD_CHECKPOINTS

PROGRAM = Program(
    name="sdtt",
    url="https://github.com/jdeschena/sdtt.git",
    commit="9172b86500126d4ca93bd5e204395c5062fdc7fd",
    marks=("src/sdtt/main.py", "src/sdtt/core/distill/multi_round_sdtt.py"),
    script="src/sdtt/main.py",
    digest="b633cc8fe26c9b3f969cae4a8f4568a55c1c1dc971225bedf41ebe8fabf7c46f",
    needs="datasets einops flash_attn fsspec huggingface_hub loguru mauve pandas "
    "requests safetensors timm torchdata tqdm transformers",
    remedies=(OLD_CHECKPOINTS, MODULATION_AS_SCRIPTED),
    configs="src/sdtt/configs",
    adapter="di4c_plugin.programs.sdtt.adapter:install",
    groups=str(configs_dir() / "hosts/sdtt"),
    files=("parameterization.checkpoint_path", "checkpointing.resume_ckpt_path"),
)
