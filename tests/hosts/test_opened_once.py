"""A file is read once, whatever it is of, until a model is made of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from di4c_plugin import load_teacher
from di4c_plugin.checkpoints import content, model_file, torch_file
from di4c_plugin.hosts.builtin import HOST
from tests.stand_ins.dit_files import lightning, state
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.place import Place, options


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files were opened, by their names."""
    found: Counter[str] = Counter()
    inert, safe = torch_file.load_inert, safetensors.safe_open

    def load_inert(path: Path, **said: Any) -> Any:
        found[path.name] += 1
        return inert(path, **said)

    def safe_open(path: Path, **said: Any) -> Any:
        found[path.name] += 1
        return safe(path, **said)

    monkeypatch.setattr(content, "load_inert", load_inert)
    monkeypatch.setattr(model_file, "safe_open", safe_open)
    return found


def test_a_model_file(tmp_path: Path, reads: Counter[str]) -> None:
    model = HOST().new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1)
    model.save(tmp_path / "x.safetensors")
    load_teacher(tmp_path / "x.safetensors")
    assert reads == {"x.safetensors": 1}


def test_a_checkpoint_of_a_text_program(tmp_path: Path, reads: Counter[str]) -> None:
    load_teacher(lightning(tmp_path / "x.ckpt", "mdlm", state()))
    torch.save(torch.load(tmp_path / "x.ckpt", weights_only=False), tmp_path / "x.pt")
    load_teacher(tmp_path / "x.pt")
    assert reads == {"x.ckpt": 1, "x.pt": 1}


@pytest.mark.parametrize("host", ["maskgit", "halton_maskgit", "tauldr"])
def test_a_checkpoint_of_an_image_program(
    host: str, root: Root, tmp_path: Path, reads: Counter[str]
) -> None:
    place = Place(host, root(host), tmp_path)
    said = options(place)
    load_teacher(place.teacher, host=said)
    assert reads == {place.teacher.name: 1}
    del said["name"]  # the file tells
    load_teacher(place.teacher, host=said).save(tmp_path / "ours.safetensors")
    assert reads == {place.teacher.name: 2}
    load_teacher(tmp_path / "ours.safetensors", host={"root": str(place.root)})
    assert reads["ours.safetensors"] == 1
