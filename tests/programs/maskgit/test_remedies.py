from types import SimpleNamespace

import pytest
import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.programs.maskgit import remedies


@pytest.fixture(autouse=True)
def _forget() -> None:
    announce_once.cache_clear()


class Inception:
    """Sends what it has and gets where MaskGIT's class does."""

    def __init__(self, features: int) -> None:
        self.network = torch.nn.Linear(features, 1).to("cuda")

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.to("cuda")).to(torch.float64)


def test_metrics_stay_on_the_cpu_only_without_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.nn.Module.to
    module = SimpleNamespace(MultiInceptionMetrics=type("Inception", (Inception,), {}))
    remedies.metrics_without_gpu(module)  # type: ignore[arg-type]
    metrics = module.MultiInceptionMetrics(3)
    answer = metrics.compute(torch.ones(2, 3))
    assert (answer.device.type, answer.dtype) == ("cpu", torch.float64)
    assert "to" not in vars(torch.Tensor)
    assert torch.nn.Module.to is before
    assert capsys.readouterr().err == "di4c: no GPU: the metrics run on the CPU\n"


def test_metrics_use_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: seen.append(device))
    module = SimpleNamespace(MultiInceptionMetrics=type("Inception", (Inception,), {}))
    remedies.metrics_without_gpu(module)  # type: ignore[arg-type]
    module.MultiInceptionMetrics(3)
    assert seen == ["cuda"]


def test_numpy_gets_its_old_name_where_it_has_lost_it() -> None:
    new = SimpleNamespace(float64=float)
    remedies.numpy_float(new)  # type: ignore[arg-type]
    assert new.float_ is float
    old = SimpleNamespace(float64=float, float_=complex)
    remedies.numpy_float(old)  # type: ignore[arg-type]
    assert old.float_ is complex
