"""An animation of sampling: the states after each step, with the result held longer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import features
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.pictures import sheet, usual_columns
from di4c_plugin.files import atomic_write
from di4c_plugin.samplers.base import Step

# Pillow's format, and options that keep the pixels; a GIF has at most 256 colours in a frame.
FORMATS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF", "disposal": 1},
    ".webp": {"format": "WEBP", "lossless": True},
}
# Milliseconds: all steps together, bounds for one of them, the last.
TOTAL, SHORTEST, LONGEST, HOLD = 4000, 40, 400, 2000


class Recorder:
    """Keeps the states after each step, over the batches of `di4c_plugin.sample`.

    Its methods are for the arguments `on_step` and `on_batch`.
    """

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] = []
        self._open = False

    def on_step(self, step: Step) -> None:
        """Keep the state x_s, (B, D), on the CPU."""
        if not self._open:
            self._batches.append([])
        self._open = True
        self._batches[-1].append(step.x.to("cpu", torch.int32, copy=True))

    def on_batch(self, done: int) -> None:
        """End a batch: the next step is the first of another one."""
        self._open = False

    def states(self) -> list[Tensor]:
        """Return the states of all samples after each step, (n, D), int64."""
        most = max(map(len, self._batches), default=0)
        whole = [states + states[-1:] * (most - len(states)) for states in self._batches]
        return [torch.cat(parts).long() for parts in zip(*whole, strict=True)]


def check_animation(path: Path) -> None:
    """Refuse a path without an animation's suffix, or of a format that this Pillow cannot write.

    Raises:
        UserError: naming the formats.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"animations are GIF or WebP: {path} must end in {' or '.join(FORMATS)}")
    if suffix == ".webp" and not features.check("webp"):
        raise UserError(f"this build of Pillow writes no WebP: {path} may end in .gif")


def write_animation(frames: Sequence[Tensor], path: Path, *, columns: int | None = None) -> None:
    """Write frames, each of pictures (n, C, H, W), uint8, C = 1 or 3, in rows of `columns`.

    Raises:
        UserError: as `check_animation`, and when the system refuses.
    """
    check_animation(path)
    columns = columns or usual_columns(frames[0])
    first, *others = [sheet(frame, columns) for frame in frames]
    with atomic_write(path) as temporary:
        first.save(
            temporary,
            save_all=True,
            append_images=others,
            duration=durations(len(frames)),
            loop=0,
            **FORMATS[path.suffix.lower()],
        )


def durations(frames: int) -> list[int]:
    """Return the duration of each frame in milliseconds, in multiples of ten, a GIF's unit."""
    duration = min(max(TOTAL // frames, SHORTEST), LONGEST) // 10 * 10
    return [duration] * (frames - 1) + [HOLD]
