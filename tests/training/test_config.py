from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"accumulate": -1}, "accumulate must be at least 1, not -1"),
        ({"lr": float("nan")}, "lr must be at least 0, not nan"),
        ({"ema": 1.0}, "ema must be in \\[0, 1\\), not 1.0"),
        ({"warmup": -0.1}, "warmup must be in \\[0, 1\\), not -0.1"),
        ({"schedule": "cos"}, "unknown schedule 'cos'; there are one_cycle, constant"),
        ({"strategy": "zero"}, "unknown strategy 'zero'; there are auto, ddp, fsdp"),
        ({"strategy": "fsdp", "compile": True}, "training.compile goes with .*, not fsdp"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"precision": "16"}, "unknown precision '16'; there are 32-true, bf16-mixed"),
        ({"logger": "x"}, "unknown logger 'x'; there are csv, tensorboard, wandb, none"),
    ],
)
def test_values_out_of_range_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        TrainingConfig(**option)
