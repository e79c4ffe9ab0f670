import contextlib
import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.programs.shims import remedies
from tests.checkpoints import hostile


class Config:
    """What torch refuses to load by default."""


@pytest.fixture(autouse=True)
def _forget() -> None:
    announce_once.cache_clear()


@pytest.fixture
def patched_torch() -> ModuleType:
    """A module with torch's own `load`, patched."""
    module = ModuleType("torch")
    module.load = torch.load  # type: ignore[attr-defined]
    remedies.old_checkpoints(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "config": Config()}, path)
    return path


def test_a_checkpoint_with_objects_is_read_without_them(
    patched_torch: ModuleType, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(pickle.UnpicklingError):
        torch.load(checkpoint)
    for source in (checkpoint, str(checkpoint)):
        content = patched_torch.load(source, map_location="cpu")
        assert content["state_dict"]["w"].tolist() == [0, 1, 2]
        assert type(content["config"]) is not Config
    line = f"di4c: {checkpoint} holds objects that torch refuses: read without running any of it\n"
    assert capsys.readouterr().err == line


def test_also_from_an_open_file_to_the_device_asked_for(
    patched_torch: ModuleType, checkpoint: Path
) -> None:
    with checkpoint.open("rb") as file:  # as Lightning does it
        content = patched_torch.load(file, map_location="meta", weights_only=None)
    assert content["state_dict"]["w"].device.type == "meta"


@pytest.mark.parametrize("weights_only", [True, False])
def test_who_says_how_to_load_gets_that(
    patched_torch: ModuleType, checkpoint: Path, weights_only: bool
) -> None:
    if weights_only:
        with pytest.raises(pickle.UnpicklingError):
            patched_torch.load(checkpoint, weights_only=True)
    else:
        assert type(patched_torch.load(checkpoint, weights_only=False)["config"]) is Config


def test_plain_checkpoints_are_read_as_always(
    patched_torch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "plain.pt")
    assert patched_torch.load(tmp_path / "plain.pt")["w"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError):
        patched_torch.load(tmp_path / "none.pt")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [hostile.script, hostile.two_directories, hostile.tar])
def test_a_program_in_a_checkpoint_is_not_run(
    make: Callable[[Path, Path], None], patched_torch: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    written = tmp_path / "outside" / "written"
    make(tmp_path / "x.pt", written)
    with contextlib.suppress(UserError):
        patched_torch.load(tmp_path / "x.pt")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("gpus", [0, 4])
def test_processes_are_counted_only_without_gpu_and_only_while_the_loaders_are_built(
    gpus: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    module = ModuleType("dataloader")
    config = SimpleNamespace(trainer=SimpleNamespace(devices=2))

    def get_dataloaders(config: Any, tokenizer: str, skip_train: bool = False) -> Any:
        return torch.cuda.device_count(), tokenizer, skip_train

    module.get_dataloaders = get_dataloaders  # type: ignore[attr-defined]
    remedies.loaders_without_gpu(module)
    assert module.get_dataloaders(config, "t", skip_train=True) == (gpus or 2, "t", True)
    assert torch.cuda.device_count() == gpus
    assert capsys.readouterr().err.startswith("" if gpus else "di4c: no GPU: the data loaders")


def test_a_failure_while_the_loaders_are_built_leaves_nothing_behind() -> None:
    module = ModuleType("dataloader")
    module.get_dataloaders = lambda config: 1 // 0  # type: ignore[attr-defined]
    remedies.loaders_without_gpu(module)
    before = torch.cuda.device_count
    with pytest.raises(ZeroDivisionError):
        module.get_dataloaders(SimpleNamespace(trainer=SimpleNamespace(devices=2)))
    assert torch.cuda.device_count is before


class Metrics:
    """Takes the arguments of Duo's class."""

    def record_generative_perplexity(
        self, text: str, max_length: int, retokenize: bool = True, device: object = "cuda"
    ) -> None:
        self.seen = (text, max_length, retokenize, device)


def test_a_device_in_the_wrong_place_finds_its_own() -> None:
    module = SimpleNamespace(Metrics=type("Metrics", (Metrics,), {}))
    remedies.perplexity_on_its_device(module)  # type: ignore[arg-type]
    metrics, cpu = module.Metrics(), torch.device("cpu")
    for arguments, seen in (
        ((cpu,), (True, cpu)),
        ((), (True, "cuda")),
        ((False, "cuda:1"), (False, "cuda:1")),
    ):
        metrics.record_generative_perplexity("text", 3, *arguments)
        assert metrics.seen == ("text", 3, *seen)


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


def test_a_host_gets_its_remedies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(remedies, "after_import", lambda module, patch: seen.append(module))
    remedies.install.cache_clear()
    for _ in range(2):
        remedies.install("duo")
    assert seen == ["torch", "dataloader", "metrics"]
    remedies.install.cache_clear()


def test_a_scripted_function_is_compiled_as_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in SDTT: the name that the scripted one calls is defined anew behind it."""
    (tmp_path / "stand_in_of_dit.py").write_text(
        "import torch\n"
        "def modulate(x, shift, scale):\n"
        "    return x * (1 + scale) + shift\n"
        "@torch.jit.script\n"
        "def modulate_fused(x, shift, scale):\n"
        "    return modulate(x, shift, scale)\n"
        "def modulate(x, shift, scale):\n"
        "    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    models = import_module("stand_in_of_dit")
    x, shift, scale = torch.randn(3, 2, 4), torch.randn(3, 1, 4), torch.randn(3, 1, 4)
    expected = models.modulate_fused(x, shift, scale)

    def block(*args: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = models.modulate_fused(*args)
        return result

    torch.compiler.reset()
    assert torch.compile(block, backend="eager")(x, shift, scale).shape == (3, 3, 2, 4)
    remedies.modulation_as_scripted(models)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(block, backend="eager")(x, shift, scale), expected)
    torch.testing.assert_close(models.modulate_fused(x, shift, scale), expected)
