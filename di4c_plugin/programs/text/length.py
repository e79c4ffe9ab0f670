"""The length of a host's run."""

import math
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping, Timer

from di4c_plugin.errors import UserError
from di4c_plugin.training.engine import check_rounds

EARLIER = (EarlyStopping, Timer)


def updates_of(trainer: Any, rounds: int) -> int:
    """Return the updates of a run that has begun, 1 if unknown.

    Args:
        trainer: a `Trainer`.
        rounds: of the method.

    Raises:
        UserError: for several rounds if the length is unknown, or the run may end earlier, and for
            fewer updates than rounds.
    """
    total = trainer.estimated_stepping_batches
    known = math.isfinite(total) and total >= 0  # -1 for a stream counted in epochs
    if rounds > 1:
        if not known:
            raise UserError("rounds above 1 need the length of the run: trainer.max_steps=NUMBER")
        for callback in trainer.callbacks:
            if isinstance(callback, EARLIER):
                name = type(callback).__name__
                raise UserError(f"rounds above 1 need the length of the run, not {name}: leave it")
        check_rounds(rounds, int(total))
    return max(int(total), 1) if known else 1
