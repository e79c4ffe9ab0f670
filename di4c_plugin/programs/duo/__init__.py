"""Duo (Sahoo et al. 2025): its program, entered by `adapter`. Standard library only."""

from di4c_plugin.checkouts import Program
from di4c_plugin.files import configs_dir
from di4c_plugin.programs.duo.remedies import PERPLEXITY_ON_ITS_DEVICE
from di4c_plugin.programs.shims.remedies import LOADERS_WITHOUT_GPU, OLD_CHECKPOINTS

PROGRAM = Program(
    name="duo",
    url="https://github.com/s-sahoo/duo.git",
    commit="7c9b498f5b717de064d6fad7e2509c866e6cb620",
    marks=("main.py", "algo.py", "trainer_base.py", "configs/algo/duo_base.yaml"),
    script="main.py",
    digest="12c096adc416dbfa94209c23b1881d072fdf74e4595161a760fa4c2b1754b88b",
    needs="datasets einops flash_attn fsspec huggingface_hub requests rich scipy "
    "timm tokenizers torchmetrics torchvision tqdm transformers",
    remedies=(OLD_CHECKPOINTS, LOADERS_WITHOUT_GPU, PERPLEXITY_ON_ITS_DEVICE),
    configs="configs",
    adapter="di4c_plugin.programs.duo.adapter:install",
    groups=str(configs_dir() / "hosts/duo"),
    files=("eval.checkpoint_path", "training.finetune_path"),
)
