from pathlib import Path

import pytest

from di4c_plugin.programs.checkup import checkup, default_folder
from di4c_plugin.programs.shims import packages
from tests.conftest import HOSTS, MakeHost, host_named

NAMES = [host.name for host in HOSTS]


def rows(folder: Path, kind: str, *, gpu: bool = False) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for host, what, why in checkup(folder, gpu=gpu):
        if what == kind:
            found.setdefault(host, []).append(why)
    return found


def test_a_submodule_is_fetched_as_one(tmp_path: Path, repository: Path) -> None:
    (tmp_path / ".gitmodules").write_text((repository / ".gitmodules").read_text())
    (tmp_path / "external/mdlm").mkdir(parents=True)
    command = f"git -C {tmp_path} submodule update --init external/"
    assert rows(tmp_path / "external", "missing") == {name: [command + name] for name in NAMES}


def test_a_present_host_and_one_folder_that_is_something_else(
    make_host: MakeHost, tmp_path: Path
) -> None:
    root = make_host("mdlm")
    (tmp_path / "duo").mkdir()
    (tmp_path / "duo" / "README").touch()
    title, tested = "mdlm at an unknown commit", "tested with c112c52 only"
    assert rows(tmp_path, "present") == {"mdlm": [f"{title}, in {root}"]}
    assert rows(tmp_path, "warning") == {"mdlm": [f"{title}; {tested}"]}
    assert list(rows(tmp_path, "unknown")) == ["duo"]
    assert list(rows(tmp_path, "missing")) == ["sdtt", "maskgit", "halton_maskgit", "tauldr"]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_may_be_one_host(name: str, make_host: MakeHost) -> None:
    root = make_host(name)
    assert {host for host, _, _ in checkup(root, gpu=True)} == {name}


def test_what_is_missing_is_told_with_a_remedy(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_host("sdtt")
    monkeypatch.setattr(packages, "is_missing", lambda name: name in {"flash_attn", "mauve"})
    assert rows(root, "stand-in") == {"sdtt": ["flash_attn: not installed"]}
    assert rows(root, "install") == {"sdtt": ["mauve: not installed; pip install mauve-text"]}


def test_maskgit_and_tauldr_may_lack_small_packages_and_large_ones(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = {"torchvision", "webdataset", "clip", "torch_fidelity", "ml_collections", "tkinter"}
    monkeypatch.setattr(packages, "is_missing", lacking.__contains__)
    stand_ins = [rows(make_host(name), "stand-in")[name] for name in NAMES[3:]]
    assert [[line.partition(":")[0] for line in lines] for lines in stand_ins] == [
        ["clip", "torchvision", "webdataset"],
        ["torch_fidelity", "torchvision", "webdataset"],
        ["tkinter", "torchvision"],
    ]
    line = "ml_collections: not installed; pip install ml-collections"
    assert rows(make_host("tauldr"), "install") == {"tauldr": [line]}
    assert not rows(make_host("maskgit"), "install")


def test_a_gpu_needs_fewer_remedies(make_host: MakeHost) -> None:
    root = make_host("duo")
    without, with_gpu = rows(root, "remedy")["duo"], rows(root, "remedy", gpu=True)["duo"]
    assert len(without) == 3
    assert len(with_gpu) == 1
    assert with_gpu[0].startswith("a checkpoint is read")


def test_by_default_it_looks_beside_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder().name == "external"
    (tmp_path / "external").mkdir()
    assert default_folder() == Path("external")


@pytest.mark.host
@pytest.mark.parametrize("host_checkout", NAMES, indirect=True)
def test_the_real_hosts_are_as_tested(host_checkout: Path) -> None:
    host = host_named(host_checkout.name)
    (line,) = rows(host_checkout, "present")[host.name]
    assert line == f"{host.name} at {host.commit[:7]}, as tested, in {host_checkout}"
