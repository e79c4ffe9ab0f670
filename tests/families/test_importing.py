"""Modules of different checkouts under the same names."""

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import commit_of, digest_of
from di4c_plugin.errors import UserError
from di4c_plugin.families.importing import checkout, host_module
from tests.conftest import host_named

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
    monkeypatch.setattr("di4c_plugin.families.importing.EXTERNAL", tmp_path)
    monkeypatch.delenv("DI4C_EXTERNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="git submodule update --init external/tauldr"):
        checkout("tauldr")


def test_a_checkout_is_looked_for_in_the_documented_order(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_host("maskgit")
    as_tested(root, monkeypatch)
    own, work, named = (tmp_path / name for name in ("package", "work", "named"))
    places = [own / "maskgit", work / "external" / "maskgit"]
    monkeypatch.setattr("di4c_plugin.families.importing.EXTERNAL", own)
    monkeypatch.setenv("DI4C_EXTERNAL", str(named))
    work.mkdir()
    monkeypatch.chdir(work)
    for place in places:  # each goes before those made so far
        shutil.copytree(root, place)
        assert checkout("maskgit") == place
    monkeypatch.chdir(root)
    assert checkout("maskgit") == root
    shutil.copytree(root, named / "maskgit")  # what the user named goes before what is found
    assert checkout("maskgit") == named / "maskgit"
    monkeypatch.setenv("DI4C_EXTERNAL", "")
    assert checkout("maskgit") == root
    assert checkout("maskgit", places[1]) == places[1]


def as_tested(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have these files be those of the commit that is tested with."""
    host = replace(host_named("maskgit"), digest=digest_of(root))
    monkeypatch.setattr("di4c_plugin.families.importing.lookup", lambda kind, name: host)


@pytest.fixture
def found(make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout as tested, in `external` below the working folder, which leaves a mark if run."""
    root = write(make_host("maskgit"), "from Network.parts import A\nimport textwrap\n")
    (tmp_path / "external").mkdir()
    root = root.rename(tmp_path / "external" / "maskgit")
    as_tested(root, monkeypatch)
    monkeypatch.setattr("di4c_plugin.families.importing.EXTERNAL", tmp_path / "none")
    monkeypatch.delenv("DI4C_EXTERNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    return root


def hostile(tmp_path: Path) -> str:
    return f"open({str(tmp_path / 'marker')!r}, 'w').close()\n"


def test_what_is_found_is_told_once(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce_once.cache_clear()
    for _ in range(2):
        assert host_module("maskgit", "Network.transformer").A == 1
    told = capsys.readouterr().err
    assert told == f"di4c: the code of maskgit is that of {Path('external/maskgit')}\n"


def refused(root: Path, tmp_path: Path, place: str = "external/maskgit") -> None:
    """It is not run, unless the user says so."""
    message = (
        f"{place} is not maskgit at 674ef1d as tested (its files differ): "
        f"host.root={place} (evaluate, sample: --host-option root={place}) runs its code all the "
        "same"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        host_module("maskgit", "Network.transformer")
    assert not (tmp_path / "marker").exists()
    assert checkout("maskgit", root) == root


def test_an_edited_checkout_is_not_run_unasked(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found / "Network" / "transformer.py").write_text(hostile(tmp_path))
    refused(found, tmp_path)
    monkeypatch.chdir(found)
    refused(found, tmp_path, str(found))
    monkeypatch.syspath_prepend(found)  # as in the host's own program
    assert checkout("maskgit") == found
    monkeypatch.undo()
    monkeypatch.setenv("DI4C_EXTERNAL", str(found.parent))
    host_module("maskgit", "Network.transformer")
    assert (tmp_path / "marker").exists()


def test_what_git_says_is_not_believed(found: Path, tmp_path: Path) -> None:
    (found / "Network" / "transformer.py").write_text(hostile(tmp_path))
    for name, text in {
        "HEAD": f"{host_named('maskgit').commit}\n",
        "config": f"[core]\nfsmonitor = touch {tmp_path / 'marker'}; false\n",
        "objects/none": "",
        "refs/none": "",
    }.items():
        (found / ".git" / name).parent.mkdir(parents=True, exist_ok=True)
        (found / ".git" / name).write_text(text)
    assert commit_of(found) == host_named("maskgit").commit  # git believes it
    refused(found, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["torch.py", "torch/__init__.py", "data/deep/down.py", "Network/transformer/__init__.py"],
)
def test_a_module_more_is_another_host(name: str, found: Path, tmp_path: Path) -> None:
    (found / name).parent.mkdir(parents=True, exist_ok=True)
    (found / name).write_text(hostile(tmp_path))
    refused(found, tmp_path)


@pytest.mark.parametrize("name", ["Network/transformer.so", "a.abi3.so", "b.pyd", "torch.pyc"])
def test_a_binary_more_is_another_host(name: str, found: Path, tmp_path: Path) -> None:
    (found / name).write_bytes(b"x")
    refused(found, tmp_path)


def test_links_are_another_host(found: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    (away / "torch").mkdir(parents=True)
    (away / "torch" / "__init__.py").write_text(hostile(tmp_path))
    (found / "torch").symlink_to(away / "torch")
    refused(found, tmp_path)
    (found / "torch").unlink()
    parts = found / "Network" / "parts.py"
    shutil.move(parts, away / "parts.py")
    parts.symlink_to(away / "parts.py")
    refused(found, tmp_path)


def test_what_is_no_code_may_lie_there(found: Path) -> None:
    for name in (".venv/lib/torch.py", "saved/vit.pth", "results/0.png", "Network/notes.txt"):
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text("x")
    parts = found / "Network" / "parts.py"
    parts.write_bytes(parts.read_bytes().replace(b"\n", b"\r\n"))
    assert host_module("maskgit", "Network.transformer").A == 1


@pytest.mark.parametrize("asked", [False, True])
def test_bytecode_beside_the_sources_is_ignored(asked: bool, found: Path, tmp_path: Path) -> None:
    source = found / "Network" / "transformer.py"
    code = compile(hostile(tmp_path) + "A = 2\n", source, "exec")
    state = source.stat()
    planted = importlib._bootstrap_external._code_to_timestamp_pyc(  # type: ignore[attr-defined]
        code, int(state.st_mtime), state.st_size
    )
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir()
    cached.write_bytes(planted)
    importlib.util.spec_from_file_location("planted", source).loader.exec_module(  # type: ignore[union-attr]
        ModuleType("planted")
    )
    (tmp_path / "marker").unlink()  # so it would have run
    module = host_module("maskgit", "Network.transformer", found if asked else None)
    assert module.A == 1
    assert not (tmp_path / "marker").exists()
    assert cached.read_bytes() == planted
    assert list(cached.parent.iterdir()) == [cached]
    assert not [path for path in sys.path_importer_cache if path.startswith(str(found))]


@pytest.mark.host
@pytest.mark.parametrize("host", ["maskgit", "halton_maskgit", "tauldr"])
def test_the_real_hosts_are_found(
    host: str, real_root: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("di4c_plugin.families.importing.EXTERNAL", tmp_path / "none")
    monkeypatch.delenv("DI4C_EXTERNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "external" / host
    shutil.copytree(real_root(host), place, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    name = {"tauldr": "lib.networks.networks"}.get(host, "Network.transformer")
    assert str(host_module(host, name).__file__).startswith(str(place))
    (place / "torch.py").touch()
    with pytest.raises(UserError, match=f"^external/{host} is not {host} at .* as tested"):
        checkout(host)
