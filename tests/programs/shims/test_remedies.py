import contextlib
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.programs.shims import remedies
from tests.checkpoints import hostile
from tests.conftest import host_named


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


def test_a_host_gets_its_remedies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(remedies, "after_import", lambda module, patch: seen.append(module))
    remedies.install.cache_clear()
    for _ in range(2):
        remedies.install(host_named("duo"))
    assert seen == ["torch", "dataloader", "metrics"]
    remedies.install.cache_clear()
