"""Checkpoints of the two MaskGIT hosts."""

from pathlib import Path

import pytest
import torch

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError
from di4c_plugin.families.registry import family_named

MASKGIT = {"first_layer.0.weight": torch.ones(2), "tok_emb.weight": torch.zeros(3, 2)}
HALTON = {"cls_emb.weight": torch.ones(2)}


def read_checkpoint(path: Path, family: str) -> Weights:
    return family_named(family, "").read(read_content(path))


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_wrappers_leave_no_trace(tmp_path: Path) -> None:
    wrapped = {f"module._orig_mod.{k}": v for k, v in MASKGIT.items()}
    path = saved(tmp_path, {"iter": 0, "model_state_dict": wrapped, "optimizer_state_dict": None})
    weights = read_checkpoint(path, "maskgit")
    assert weights.tensors.keys() == MASKGIT.keys()
    bare = read_checkpoint(saved(tmp_path, MASKGIT), "maskgit")
    assert bare.fingerprint == weights.fingerprint
    assert weights.latent is None


def test_official_student_is_known(tmp_path: Path) -> None:
    state = MASKGIT | {"latent_projection.0.weight": torch.zeros(1)}
    path = saved(tmp_path, {"model_state_dict": state})
    assert read_checkpoint(path, "maskgit").latent == {"name": "token"}


@pytest.mark.parametrize(
    ("state", "host", "message"),
    [
        (HALTON, "maskgit", "is of Halton-MaskGIT, not of MaskGIT-pytorch"),
        (MASKGIT, "halton_maskgit", "is of MaskGIT-pytorch v1, not of Halton"),
        ({"x": torch.ones(1)}, "maskgit", "holds no weights of a network that we know: "),
        ({"model_state_dict": 3}, "maskgit", "holds no weights"),
    ],
)
def test_other_networks(tmp_path: Path, state: object, host: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_checkpoint(saved(tmp_path, state), host)
