import os

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.training.checkpoint import CheckpointFiles
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.trainer import make_trainer, with_float64


@pytest.mark.parametrize("asked", ["auto", "gpu", "mps"])
def test_apples_device_is_left_for_the_cpu_with_a_line(
    asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    assert with_float64(asked) == "cpu"
    assert with_float64("cpu") == "cpu"
    assert capsys.readouterr().err == (
        "di4c: accelerator mps has no float64, which training needs: using the CPU\n"
    )


@pytest.mark.parametrize("asked", ["auto", "gpu", "cuda"])
def test_other_accelerators_are_kept(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))
    assert with_float64(asked) == asked
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    assert with_float64(asked) == asked


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
@pytest.mark.parametrize("devices", [1000, 2**31])
def test_a_thousand_processes_are_not_started(
    accelerator: str, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: False))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    config = TrainingConfig(devices=devices, accelerator=accelerator)
    with pytest.raises(UserError, match=f"devices is at most 16 on this CPU, not {devices} "):
        make_trainer(config, None, [], CheckpointFiles(), alternates=False)
