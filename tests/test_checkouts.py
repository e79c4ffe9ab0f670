import configparser
import pkgutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin import checkouts as detect
from di4c_plugin.checkouts import Checkout, Program
from tests.conftest import HOSTS, HYDRA_HOSTS, MakeHost, host_named

EVERY = pytest.mark.parametrize("host", HOSTS, ids=[host.name for host in HOSTS])


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"marks": ["main.py"]}, "marks of a Program must be a tuple"),
        ({"marks": ()}, "needs marks"),
        ({"marks": (None,)}, "must be texts"),
        ({"configs": ("configs",)}, "must be texts"),
        ({"configs": None}, "with configs needs an adapter, and no other has one"),
        ({"adapter": ""}, "with configs needs an adapter"),
    ],
)
def test_what_would_fail_in_other_apps_is_no_program(changes: dict[str, Any], line: str) -> None:
    with pytest.raises((TypeError, ValueError), match=line):
        replace(host_named("duo"), **changes)


@pytest.mark.parametrize("host", HYDRA_HOSTS, ids=[host.name for host in HYDRA_HOSTS])
def test_its_adapter_is_there(host: Program) -> None:
    assert callable(pkgutil.resolve_name(host.adapter))


@EVERY
def test_a_host_is_known_by_its_marks_and_not_by_its_name(
    host: Program, make_host: MakeHost
) -> None:
    root = make_host(host.name).rename(make_host(host.name).with_name("any_other"))
    for program in (host.script, *host.others):
        assert detect.find(root / program, HOSTS) == Checkout(host, root, None)
    for mark in host.marks:
        text = (root / mark).read_text()
        (root / mark).unlink()
        assert all(detect.find(root / p, HOSTS) is None for p in (host.script, *host.others))
        (root / mark).write_text(text)


@pytest.mark.parametrize("host", HYDRA_HOSTS, ids=[host.name for host in HYDRA_HOSTS])
def test_its_configs_are_known_by_its_marks_too(host: Program, make_host: MakeHost) -> None:
    root = make_host(host.name)
    configs = root / str(host.configs)
    assert detect.host_of_configs(str(configs), HOSTS) == host
    assert detect.host_of_configs(f"file://{configs}", HOSTS) == host
    for mark in host.marks:
        text = (root / mark).read_text()
        (root / mark).unlink()
        assert detect.host_of_configs(str(configs), HOSTS) is None
        (root / mark).write_text(text)


@EVERY
def test_other_folders_of_a_host_are_not_its_configs(host: Program, make_host: MakeHost) -> None:
    root = make_host(host.name)
    for folder in (root, root / "models", root / "None", root / str(host.configs) / "algo"):
        assert detect.host_of_configs(str(folder), HOSTS) is None
    assert detect.find(root / "tools" / "main.py", HOSTS) is None


def test_hosts_without_hydra_have_no_configs(make_host: MakeHost) -> None:
    without = [host for host in HOSTS if host not in HYDRA_HOSTS]
    assert [host.name for host in without] == ["maskgit", "halton_maskgit", "tauldr"]
    for host in without:
        root = make_host(host.name)
        assert not any(detect.host_of_configs(str(root / name), HOSTS) for name in (".", "configs"))


def test_the_two_generations_of_maskgit_are_told_apart(make_host: MakeHost) -> None:
    for name in ("maskgit", "halton_maskgit"):
        found = detect.find(make_host(name) / "main.py", HOSTS)
        assert found is not None
        assert found.host == host_named(name)


@pytest.mark.parametrize("path", ["", "/", ".", "pkg://hydra.conf", "structured://", "configs"])
def test_what_else_hydra_searches_is_no_host(path: str) -> None:
    assert detect.host_of_configs(path, HOSTS) is None


def test_find_follows_a_link_to_the_program(make_host: MakeHost, tmp_path: Path) -> None:
    root = make_host("sdtt")
    (tmp_path / "link.py").symlink_to(root / "src/sdtt/main.py")
    assert detect.find(tmp_path / "link.py", HOSTS) == Checkout(host_named("sdtt"), root, None)


def test_the_commit_is_that_of_the_host_itself(make_host: MakeHost, tmp_path: Path) -> None:
    root = make_host("mdlm")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "around")
    assert detect.commit_of(root) is None
    git(root, "init", "--quiet")
    assert detect.commit_of(root) is None
    git(root, "commit", "--quiet", "--allow-empty", "--message", "own")
    assert detect.commit_of(root) == git(root, "rev-parse", "HEAD")


def test_a_machine_without_git(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_host("mdlm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert detect.commit_of(root) is None


def test_only_another_commit_gives_a_warning(tmp_path: Path) -> None:
    host = host_named("duo")
    assert Checkout(host, tmp_path, host.commit).warning is None
    assert Checkout(host, tmp_path, host.commit).title == "duo at 7c9b498"
    for commit, title in (("f" * 40, "duo at fffffff"), (None, "duo at an unknown commit")):
        assert Checkout(host, tmp_path, commit).warning == f"{title}; tested with 7c9b498 only"


def test_changed_files_are_told_and_a_copy_without_git_is_known(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_host("duo")
    host = replace(host_named("duo"), digest=detect.digest_of(root))
    assert Checkout(host, root, None).title == "duo at 7c9b498"
    assert Checkout(host, root, None).warning is None
    assert Checkout(host, root, "f" * 40).warning is None
    (root / "algo.py").write_text("import os\n")
    assert Checkout(host, root, host.commit).warning == (
        "duo at 7c9b498 with changed files; tested without these changes only"
    )
    assert (
        Checkout(host, root, None).warning == "duo at an unknown commit; tested with 7c9b498 only"
    )


def test_the_submodules_are_the_known_hosts(repository: Path) -> None:
    modules = configparser.ConfigParser()
    modules.read(repository / ".gitmodules")
    for host in HOSTS:
        section = modules[f'submodule "external/{host.name}"']
        assert dict(section) == {"path": f"external/{host.name}", "url": host.url}


@pytest.mark.host
@pytest.mark.parametrize(
    ("host_checkout", "host"), [(host.name, host) for host in HOSTS], indirect=["host_checkout"]
)
def test_the_real_hosts(host_checkout: Path, host: Program) -> None:
    found = detect.find(host_checkout / host.script, HOSTS)
    assert found == Checkout(host, host_checkout, host.commit)
    assert Checkout(host, host_checkout, None).as_tested, "the digest is not that of the commit"
    if host.configs:
        assert detect.host_of_configs(str(host_checkout / host.configs), HOSTS) == host
    assert all((host_checkout / program).is_file() for program in host.others)
