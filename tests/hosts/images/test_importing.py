"""Modules of different checkouts under the same names."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.hosts.images.importing import checkout, host_module

MakeHost = Callable[[str], Path]


def write(root: Path, text: str) -> Path:
    (root / "Network").mkdir(exist_ok=True)
    (root / "Network" / "transformer.py").write_text(text)
    (root / "Network" / "parts.py").write_text("A = 1\n")
    return root


def test_names_of_hosts_do_not_meet(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = object()
    monkeypatch.setitem(sys.modules, "Network", mine)
    path = list(sys.path)
    roots = {
        host: write(make_host(host), f"from Network.parts import A\nhost = {host!r}\n")
        for host in ("maskgit", "halton_maskgit")
    }
    for host, root in roots.items():
        module = host_module(host, "Network.transformer", root)
        assert module.host == host
        assert module.A == 1
        # Once: classes stay the same; parts too.
        assert host_module(host, "Network.transformer", root) is module
    assert sys.modules["Network"] is mine
    assert "Network.transformer" not in sys.modules
    assert sys.path == path


def test_in_the_hosts_program_its_own_modules(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(make_host("maskgit"), "B = 2\n")
    monkeypatch.syspath_prepend(root)
    import Network.transformer as loaded  # type: ignore[import-not-found]

    try:
        assert host_module("maskgit", "Network.transformer", root) is loaded
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "Network"]:
            del sys.modules[name]


def test_what_is_missing(make_host: MakeHost, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkout of maskgit in .*nothing"):
        checkout("maskgit", tmp_path / "nothing")
    root = write(make_host("maskgit"), "import no_such_package.part\n")
    with pytest.raises(UserError, match="maskgit needs the package no_such_package"):
        host_module("maskgit", "Network.transformer", root)
    with pytest.raises(ModuleNotFoundError, match="Network.missing"):
        host_module("maskgit", "Network.missing", root)


def test_submodule_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("di4c_plugin.hosts.images.importing.EXTERNAL", tmp_path)
    monkeypatch.delenv("DI4C_EXTERNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="git submodule update --init external/tauldr"):
        checkout("tauldr")


def test_a_checkout_is_looked_for_in_the_documented_order(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_host("maskgit")
    own, work, named = (tmp_path / name for name in ("package", "work", "named"))
    places = [own / "maskgit", work / "external" / "maskgit", named / "maskgit"]
    monkeypatch.setattr("di4c_plugin.hosts.images.importing.EXTERNAL", own)
    monkeypatch.setenv("DI4C_EXTERNAL", str(named))
    work.mkdir()
    monkeypatch.chdir(work)
    for place in places:  # each goes before those made so far
        shutil.copytree(root, place)
        assert checkout("maskgit") == place
    monkeypatch.chdir(root)
    assert checkout("maskgit") == root
