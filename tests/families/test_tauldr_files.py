"""tauLDR's checkpoints: averages by the file's own order, config beside the folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.errors import UserError
from di4c_plugin.families.tauldr import TauLDRNetworks

NETS = TauLDRNetworks()
# Two weights of one shape: only their order tells their averages apart.
RAW = {
    "net.temb_modules.0.weight": torch.ones(2),
    "net.b": torch.tensor([2.0]),
    "net.a": torch.tensor([1.0]),
}


def saved(tmp_path: Path, state: dict[str, Any], averages: list[Tensor]) -> Path:
    """As the host saves it: a numpy scalar beside, that torch.load refuses."""
    model = state | {"ema_decay": 0.9, "ema_num_updates": 3, "ema_shadow_params": averages}
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    path = tmp_path / "checkpoints" / "ckpt_0000000001.pt"
    content = {"model": model, "optimizer": {"lr": np.float64(0.1)}, "n_iter": np.int64(1)}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", ["net.", "net.module."])
def test_averages_have_the_files_order(tmp_path: Path, prefix: str) -> None:
    state = {k.replace("net.", prefix, 1): v for k, v in RAW.items()}
    path = saved(tmp_path, state, [2 * v for v in RAW.values()])
    weights = NETS.read(read_content(path))
    assert weights.tensors.keys() == {"temb_modules.0.weight", "b", "a"}
    assert weights.tensors["b"] == 4
    assert weights.tensors["a"] == 2
    raw = NETS.read(read_content(path), ema=False)
    assert raw.tensors["b"] == 2
    assert raw.latent is None
    assert raw.config == {}


def test_student_and_config(tmp_path: Path) -> None:
    state = RAW | {"net.tlam_mix.weight": torch.ones(1)}
    path = saved(tmp_path, state, [])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config_001.yaml").write_text("data:\n  S: 17\n")
    weights = NETS.read(read_content(path))
    assert weights.latent == {"name": "unet"}
    assert weights.config == {"data": {"S": 17}}
    (tmp_path / "config" / "config_001.yaml").write_text("data: [\n")
    with pytest.raises(UserError, match="config_001.yaml is not readable: "):
        NETS.read(read_content(path))


def test_averages_of_something_else(tmp_path: Path) -> None:
    path = saved(tmp_path, RAW, list(RAW.values())[:2])
    with pytest.raises(UserError, match="its 2 averages are not of its 3 weights"):
        NETS.read(read_content(path))
