import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from di4c_plugin.announce import announce_once
from di4c_plugin.training.trainer import with_float64


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
