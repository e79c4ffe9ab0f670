"""Files of small VQ models as the hosts read them, with random weights of the hosts' classes."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from di4c_plugin.families.importing import host_module

CODES = {"maskgit": 12, "halton_maskgit": 20}
STAND_INS = {
    "maskgit": ("Network/Taming/models/vqgan.py", "stand_in_vq_maskgit"),
    "halton_maskgit": ("Network/vq_model.py", "stand_in_vq_halton"),
}
TAMING: dict[str, Any] = {
    "n_embed": CODES["maskgit"],
    "embed_dim": 4,
    "lossconfig": {"target": "no.such.module.Loss"},
    "ddconfig": {
        "double_z": False,
        "z_channels": 32,
        "resolution": 8,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [4],
        "dropout": 0.0,
    },
}


class Bomb:
    """Raises when it is unpickled by ordinary means."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('a pickle was executed')",)


def with_stand_in(root: Path, host: str) -> Path:
    """Have a checkout's VQ model be ours."""
    path, module = STAND_INS[host]
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"from tests.stand_ins.images.{module} import *  # noqa: F403\n")
    return root


def write_vq(host: str, folder: Path, root: Path) -> tuple[Path, nn.Module]:
    """Return the path for --vqgan-folder, and the model whose weights lie there."""
    torch.manual_seed(0)
    return write_taming(folder, root) if host == "maskgit" else write_llamagen(folder, root)


def write_taming(
    folder: Path, root: Path, config: str = "configs", weights: str = "ckpts"
) -> tuple[Path, nn.Module]:
    kind = host_module("maskgit", "Network.Taming.models.vqgan", root).VQModel
    model: nn.Module = kind(**TAMING).eval()
    nn.init.normal_(model.get_parameter("quantize.embedding.weight"))
    for name in (config, weights):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # A file that the host would unpickle without care must not even be looked for.
    params = TAMING | {"ckpt_path": str(folder / "nowhere.ckpt")}
    yaml = OmegaConf.create({"model": {"target": "x.VQModel", "params": params}})
    OmegaConf.save(yaml, folder / config / "model.yaml")
    state = dict(model.state_dict()) | {"loss.logvar": torch.zeros(())}
    torch.save({"state_dict": state, "callbacks": Bomb()}, folder / weights / "last.ckpt")
    return folder, model


def write_llamagen(folder: Path, root: Path, **sizes: Any) -> tuple[Path, nn.Module]:
    module = host_module("halton_maskgit", "Network.vq_model", root)
    small = {"codebook_size": CODES["halton_maskgit"], "z_channels": 32}
    blocks = {"encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2]}
    model: nn.Module = module.VQModel(module.ModelArgs(**(small | blocks | sizes))).eval()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vq_ds16_c2i.pt"
    torch.save({"model": model.state_dict(), "optimizer": Bomb()}, file)
    return file, model
