import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.programs.shims import packages
from tests.conftest import HOSTS, host_named

STAND_INS = sorted(path.name for path in packages.STAND_INS.iterdir() if path.name[0] != "_")


@pytest.fixture
def _path() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(autouse=True)
def _quick(_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_let_others_look_first", lambda: None)


def use(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stand-in for `package` importable where the real one is not installed."""
    if not packages.is_missing(package):
        pytest.skip(f"the real {package} is installed")
    packages.add(package)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


def find(path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    module, _, name = path.rpartition(".")
    use(module.split(".")[0], monkeypatch)
    return getattr(import_module(module), name)


def test_every_stand_in_is_needed_by_a_host() -> None:
    needed = {name for host in HOSTS for name in host.needs.split()}
    assert needed.issuperset(STAND_INS)
    assert len(STAND_INS) == 10


@pytest.mark.parametrize(
    "path",
    [
        "causal_conv1d.causal_conv1d_fn",
        "causal_conv1d.causal_conv1d_update",
        "mamba_ssm.ops.selective_scan_interface.mamba_inner_fn",
        "mamba_ssm.ops.selective_scan_interface.selective_scan_fn",
        "mamba_ssm.ops.triton.selective_state_update.selective_state_update",
        "timm.scheduler.CosineLRScheduler",
        "torchvision.datasets.cifar.CIFAR10",
        "torchvision.datasets.coco.CocoCaptions",
        "torchvision.datasets.mnist.MNIST",
        "torchvision.datasets.stl10.STL10",
        "clip.tokenize",
        "cleanfid.resize.make_resizer",
        "torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3",
    ],
)
def test_what_only_lets_a_host_be_imported_refuses_to_work(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = find(path, monkeypatch)
    with pytest.raises(UserError, match="which is not installed: pip install "):
        refuse(1, x=2)


def test_torchvision_refuses_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = find("torchvision.transforms", monkeypatch)
    torchvision = sys.modules["torchvision"]
    with pytest.raises(UserError, match="transforms.ColorJitter needs torchvision, which is not"):
        _ = transforms.ColorJitter
    for module, name in (("utils", "draw_keypoints"), ("datasets", "SVHN")):
        with pytest.raises(UserError, match=f"torchvision.{module}.{name} .* pip install torch"):
            getattr(getattr(torchvision, module), name)
    with pytest.raises(UserError, match="pip install torchvision"):
        _ = torchvision.models
    assert not hasattr(transforms, "__path__")


def test_one_may_derive_from_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(find("torchvision.datasets.CIFAR10", monkeypatch)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(root="x", train=True)

    with pytest.raises(UserError, match="torchvision.datasets.CIFAR10 needs torchvision"):
        Own()


def test_webdataset_and_tkinter_can_be_imported_only(monkeypatch: pytest.MonkeyPatch) -> None:
    use("webdataset", monkeypatch)
    with pytest.raises(UserError, match="webdataset.WebDataset needs webdataset"):
        _ = import_module("webdataset").WebDataset


def test_a_python_without_tk_gets_its_stand_in_before_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tkinter").mkdir()
    (tmp_path / "tkinter/__init__.py").write_text("import _tkinter")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(packages.PARTS, "tkinter", "di4c_no_such_module")
    invalidate_caches()
    for name in [name for name in sys.modules if name.split(".")[0] == "tkinter"]:
        monkeypatch.delitem(sys.modules, name)
    assert packages.is_missing("tkinter")
    for _ in range(2):
        packages.add("tkinter")
    assert sys.path.count(str(packages.STAND_INS / "tkinter")) == 1
    with pytest.raises(UserError, match="^tkinter.Image needs Tk, which this Python was built"):
        import_module("tkinter").Image()
    assert packages.is_missing("tkinter")
    monkeypatch.delitem(sys.modules, "tkinter")


def test_flash_attn_has_the_names_that_hosts_use(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attn = find("flash_attn.flash_attn_interface", monkeypatch)
    module = sys.modules["flash_attn"]
    assert module.flash_attn_qkvpacked_func is flash_attn.flash_attn_qkvpacked_func
    assert import_module("flash_attn.layers.rotary").apply_rotary_emb_torch
    assert module.__spec__
    assert module.__spec__.name == "flash_attn"


@pytest.mark.parametrize("package", STAND_INS)
def test_a_real_package_is_never_shadowed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{package}.py").write_text("REAL = True\n")
    packages.add(package)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    invalidate_caches()
    assert not packages.is_missing(package)
    assert import_module(package).REAL
    monkeypatch.delitem(sys.modules, package)


def test_an_absent_package_gets_its_stand_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"flash_attn", "timm"}
    monkeypatch.setattr(packages, "is_missing", absent.__contains__)
    assert packages.provide(host_named("sdtt")) == ["flash_attn", "timm"]
    assert packages.provide(host_named("sdtt")) == ["flash_attn", "timm"]
    ours = [path for path in sys.path if str(packages.STAND_INS) in path]
    assert ours == [str(packages.STAND_INS / name) for name in ("flash_attn", "timm")]
    assert sys.path[-2:] == ours


def test_what_has_no_stand_in_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"flash_attn", "loguru", "mauve"}
    monkeypatch.setattr(packages, "is_missing", absent.__contains__)
    line = "^sdtt needs loguru, mauve: pip install loguru mauve-text$"
    with pytest.raises(UserError, match=line):
        packages.provide(host_named("sdtt"))
