"""Adapters on the networks of all families that name their blocks, not of transformers' alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import distill, load_student, load_teacher, sample
from di4c_plugin.algorithms.base import Data
from di4c_plugin.diffusion import Absorbing, LogLinear
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import DiTConfig, TransformerConfig
from tests.training import toy

pytest.importorskip("peft", reason="adapters are by peft")

BUILTIN = TransformerConfig(3, 4, (2, 2), hidden_size=8, embedding_size=4, num_heads=2, mask=3)
DIT = DiTConfig(vocab_size=4, length=4, hidden_size=8, cond_dim=4, n_blocks=1, n_heads=2)
TEACHERS: dict[str, tuple[Any, Any]] = {
    "builtin": (BUILTIN, Absorbing(3)),
    "mdlm": (DIT, Absorbing(4, LogLinear(1e-3), mask=3)),
}
DATA = Data(torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]))


@pytest.mark.parametrize("latent", [{"name": "token"}, {"name": "mask_noise", "dim": 2}])
@pytest.mark.parametrize("host", TEACHERS)
def test_an_adapter_is_trained_and_read_again(
    host: str, latent: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = new_model(*TEACHERS[host])
    for weight in model.denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # a new DiT has zeros, through which nothing learns
    model.save(tmp_path / "teacher.safetensors")
    teacher = load_teacher(tmp_path / "teacher.safetensors")
    before = toy.weights(teacher)
    student = distill(
        teacher,
        DATA,
        algo={"name": "di4c", "latents": 2},
        latent=latent,
        training={"steps": 3, "batch_size": 2, "logger": "none", "adapter": {"r": 2}},
        host=host,
        out=tmp_path / "run",
        progress=False,
    )
    assert toy.same(toy.weights(teacher), before)
    adapters = {k: v for k, v in toy.weights(student).items() if ".lora_B" in k}
    assert any(bool(weight.any()) for weight in adapters.values())
    read = load_student(tmp_path / "run")
    assert torch.equal(sample(read, 64, seed=1), sample(student, 64, seed=1))
    (tmp_path / "teacher.safetensors").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"teacher\.safetensors': it must be there"):
        load_student(tmp_path / "run")
