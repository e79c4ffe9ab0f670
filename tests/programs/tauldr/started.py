"""What train.py of tauLDR has when its first update begins."""

from pathlib import Path
from typing import Any

import torch

from di4c_plugin.programs.tauldr.training import (
    Di4CLoss,
    make_student,
)
from tests.stand_ins.images.small_tauldr import S
from tests.stand_ins.images.trainers import GaussianModel

BATCH = torch.randint(S, (4, 3, 4, 4), generator=torch.Generator().manual_seed(7))


class Writer(dict[str, float]):
    def add_scalar(self, name: str, value: Any, update: int) -> None:
        self[name] = float(value)


def started(cfg: Any, place: Path) -> tuple[Any, Any, Any]:
    """As train.py starts: model, loss, state."""
    model = GaussianModel(place)
    make_student(model, cfg)
    loss = type("Di4C", (Di4CLoss,), {"root": place})(cfg)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return model, loss, {"model": model, "optimizer": optimizer, "n_iter": 0}
