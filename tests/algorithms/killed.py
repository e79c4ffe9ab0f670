"""A run killed between two checkpoints goes on as if it had not been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.training.module import TrainingModule
from tests.training import toy


def goes_on_bit_for_bit(run: Callable[..., Model], folder: Path, role: str, at: int = 5) -> None:
    """Compare a whole run with one killed in update `at` and resumed: weights, state, `role`'s too.

    Args:
        run: trains in the folder that it is given; takes `resume`.
        folder: for both.
        role: a network of the method beside the student.
        at: between two checkpoints.
    """
    whole = run(folder / "whole")
    step = TrainingModule.optimizer_step

    def killed(self: TrainingModule, *arguments: Any, **keywords: Any) -> None:
        if self.trainer.global_step == at:
            raise KeyboardInterrupt
        step(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  as Lightning ends it
            run(folder / "broken")
    resumed = run(folder / "broken", resume=True)
    assert toy.same(toy.weights(whole), toy.weights(resumed))
    one, other = (
        torch.load(folder / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "broken")
    )
    assert any(name.startswith(f"networks.{role}.") for name in one)
    assert one.keys() == other.keys()
    for name, value in one.items():
        again = other[name]
        alike = torch.equal(value, again) if isinstance(value, torch.Tensor) else value == again
        assert alike, name
