"""Devices that can draw, that cannot, and that are not there."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from di4c_plugin.announce import announce_once
from di4c_plugin.api import sample
from di4c_plugin.errors import UserError
from di4c_plugin.samplers.checks import usable
from tests.test_devices import PROCESSES, teacher_of


class WithoutFloat64(TorchFunctionMode):
    """A machine whose device "mps" is the CPU, but for what Apple's does not know: float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) == "mps":
            if kwargs.get("dtype") == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            found = func(*args, **kwargs | {"device": "cpu"})
            return found.as_subclass(OnMPS)
        return func(*args, **kwargs)


class OnMPS(torch.Tensor):
    """A tensor that says that it is there."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device."""
        return torch.device("mps")


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_a_device_without_float64_is_left_for_the_cpu_with_a_line(
    process: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    model = teacher_of(process)
    monkeypatch.setattr(torch, "Generator", lambda device: GENERATOR(CPU.get(str(device), device)))
    with WithoutFloat64():
        x = sample(model, 3, steps=2, device="mps")
    assert torch.equal(x, sample(model, 3, steps=2))
    assert capsys.readouterr().err == (
        "di4c: device 'mps' has no float64, which draws need: using the CPU\n"
    )


GENERATOR = torch.Generator
CPU = {"mps": "cpu"}


@pytest.mark.parametrize("device", ["mps", "abacus", "meta", "vulkan", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_one_short_line(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError) as caught:
        usable(device)
    message = str(caught.value)
    assert message.startswith(f"cannot use device {device!r}: ")
    assert len(message) < 300
