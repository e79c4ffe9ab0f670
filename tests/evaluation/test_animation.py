from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.animation import HOLD, Recorder, durations, write_animation
from di4c_plugin.evaluation.pictures import sheet
from di4c_plugin.samplers.base import Step

Pixels = NDArray[np.uint8]
FORMATS = [".gif", ".webp"]


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == ".webp" and not features.check("webp"):
        pytest.skip("this build of Pillow writes no WebP")
    return tmp_path / f"reveal{request.param}"


def revealed(steps: int, channels: int) -> list[Tensor]:
    """Frames of three pictures: one more row of each is known after each step, the rest grey."""
    final = torch.tensor([0, 80, 255], dtype=torch.uint8).repeat(8, 3)[:, :8]
    frames = []
    for k in range(1, steps + 1):
        frame = torch.full((3, channels, 8, 8), 128, dtype=torch.uint8)
        frame[:, :, :k] = final[:k]
        frames.append(frame)
    return frames


def read(path: Path) -> tuple[list[Pixels], list[int]]:
    """Return frames (H, W, 3) and how long they are seen, in milliseconds."""
    pixels, times = [], []
    with Image.open(path) as file:
        for k in range(getattr(file, "n_frames", 1)):
            file.seek(k)
            file.load()
            times.append(round(file.info["duration"]))
            pixels.append(np.array(file.convert("RGB")))
    return pixels, times


@pytest.mark.parametrize("channels", [1, 3])
def test_every_state_is_a_frame_and_the_last_is_held(path: Path, channels: int) -> None:
    frames = revealed(4, channels)
    write_animation(frames, path, columns=2)
    pixels, times = read(path)
    assert times == [400, 400, 400, HOLD]
    for frame, shown in zip(frames, pixels, strict=True):
        expected = np.array(sheet(frame, 2).convert("RGB")).astype(int)
        # What a GIF shows of colours is near enough; greys are exact.
        assert np.abs(shown - expected).max() <= (0 if channels == 1 else 8)


def test_colours_stay_apart(path: Path) -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    blue = red.flip(1)
    write_animation([red, blue], path)
    pixels, _ = read(path)
    assert [frame[32, 32].tolist() for frame in pixels] == [[255, 0, 0], [0, 0, 255]]


def test_a_single_step_is_a_single_frame(path: Path) -> None:
    write_animation(revealed(1, 1), path)
    with Image.open(path) as file:
        assert getattr(file, "n_frames", 1) == 1


@pytest.mark.parametrize(
    ("frames", "each"), [(1, None), (2, 400), (10, 400), (40, 100), (64, 60), (1000, 40)]
)
def test_many_steps_pass_faster(frames: int, each: int | None) -> None:
    expected = [] if each is None else [each] * (frames - 1)
    assert durations(frames) == [*expected, HOLD]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4 must end in \.gif or \.webp$"):
        write_animation(revealed(2, 1), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_pillow_without_webp_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UserError, match=r"^this build of Pillow writes no WebP: .*a\.webp may end"):
        write_animation(revealed(2, 1), tmp_path / "a.webp")


def test_the_recorder_joins_the_batches_step_by_step() -> None:
    recorder = Recorder()
    x = torch.zeros(2, 3, dtype=torch.long)
    for batch, rows in enumerate((2, 1)):
        for index in range(3):
            x = torch.full((rows, 3), 10 * batch + index)
            recorder.on_step(Step(index, 1.0, 0.0, x))
            x.fill_(-9)  # a sampler may go on in place
        recorder.on_batch(rows)
    states = recorder.states()
    assert [state.tolist() for state in states] == [
        [[k] * 3, [k] * 3, [10 + k] * 3] for k in range(3)
    ]
    assert {state.dtype for state in states} == {torch.int64}


def test_batches_that_end_early_keep_their_last_state() -> None:
    recorder = Recorder()
    for row, steps in ((1, 2), (5, 3)):
        for k in range(steps):
            recorder.on_step(Step(k, 1.0, 0.0, torch.full((1, 2), row + k)))
        recorder.on_batch(1)
    assert [x[:, 0].tolist() for x in recorder.states()] == [[1, 5], [2, 6], [2, 7]]
    assert Recorder().states() == []
