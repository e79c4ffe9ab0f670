from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_tauldr import CONFIG, Part
from tests.stand_ins.images.trainers import GaussianModel


@pytest.fixture
def cfg(root: Root, tmp_path: Path) -> Any:
    """A config, and a teacher whose averages differ from its weights."""
    teacher = GaussianModel(root("tauldr"))
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.01)
    torch.save({"model": teacher.state_dict(), "n_iter": 3}, tmp_path / "teacher.pt")
    options = {"latents": 2, "states": 3, "min_time": 0.05, "delta": 0.05, "delta_share": None}
    return SimpleNamespace(
        loss=Part(
            name="Di4C", teacher=str(tmp_path / "teacher.pt"), min_time=0.01, options=options
        ),
        training=Part(n_iters=10, clip_grad=True, warmup=2),
        optimizer=Part(lr=1e-3),
        distributed=False,
        **{name: dict(part) for name, part in CONFIG.items()},
    )
