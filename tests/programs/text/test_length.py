"""Rounds need to know how long a run is, whatever ends it."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from tests.stand_ins.text import stand_in


def fit(folder: Path, *callbacks: Any, loader: Any = None, **options: Any) -> Any:
    module = stand_in.student(stand_in.distilling(rounds=2))
    rounds: list[int] = []
    module.rounds_of_updates = rounds
    step = module.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        loss = step(batch, batch_idx)
        rounds.append(module.state.round)
        return loss

    module.training_step = watched  # type: ignore[method-assign]
    trainer: Any = stand_in.trainer(folder, **{"limit_val_batches": 0} | options)
    trainer.callbacks.extend(callbacks)
    trainer.fit(module, stand_in.loader(10) if loader is None else loader)
    return rounds


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({"max_steps": -1, "max_epochs": 1}, [0, 0, 1, 1]),
        ({"max_steps": -1, "max_epochs": 2}, [0] * 4 + [1] * 4),
        ({"max_steps": 1000, "max_epochs": 1}, [0, 0, 1, 1]),
        ({"max_steps": 3, "max_epochs": 2}, [0, 0, 1]),
        ({"max_steps": -1, "max_epochs": 1, "limit_train_batches": 2}, [0, 1]),
        ({"max_steps": -1, "max_epochs": 1, "accumulate_grad_batches": 2}, [0, 0, 1, 1]),
    ],
)
def test_rounds_come_by_whatever_ends_the_run(
    tmp_path: Path, options: dict[str, Any], rounds: list[int]
) -> None:
    assert fit(tmp_path, **options) == rounds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1, "max_epochs": -1}, "trainer.max_steps=NUMBER"),
        ({"max_steps": -1, "max_epochs": 1, "stream": True}, "trainer.max_steps=NUMBER"),
        ({"max_time": "00:00:01:00"}, "not Timer"),
        ({"early": True}, "not EarlyStopping"),
    ],
)
def test_what_tells_no_length_is_one_line(
    tmp_path: Path, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = dict(options)
    callbacks = [EarlyStopping("val/nll")] if options.pop("early", False) else []
    stream = DataLoader(stand_in.Stream(), batch_size=3) if options.pop("stream", False) else None
    with pytest.raises(SystemExit) as stop:
        fit(tmp_path, *callbacks, loader=stream, **options)
    assert stop.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("di4c: error")]
    assert "rounds above 1 need the length of the run" in line
    assert message in line
