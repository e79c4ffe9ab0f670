"""What all tests share."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.builtins import di4c_programs
from di4c_plugin.checkouts import Program

# Workers of pytest-xdist have a core each: more threads would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The built-in ones only.
HOSTS = tuple(host for host in di4c_programs().values() if isinstance(host, Program))
HYDRA_HOSTS = tuple(host for host in HOSTS if host.configs)
Run = Callable[..., "subprocess.CompletedProcess[str]"]
MakeHost = Callable[[str], Path]


def host_named(name: str) -> Program:
    """The program of that name; KeyError if there is none."""
    return {host.name: host for host in HOSTS}[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is none, and `campaign` if nobody asks for them."""
    if "campaign" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("campaign"):
                item.add_marker(pytest.mark.skip(reason="a long campaign: -m campaign"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def di4c() -> Run:
    """Run the installed program in a process of its own: di4c("plugins", NAME="environment")."""
    program = shutil.which("di4c", path=sysconfig.get_path("scripts"))
    assert program, "install the package first: pip install -e '.[dev]'"

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | environment,
        )

    return run


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> str:
    """Install tests/example_plugin; the folder it is in, to be used as PYTHONPATH."""
    folder = str(tmp_path_factory.mktemp("example_plugin"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--target", folder, repository / "tests" / "example_plugin"],
        check=True,
    )
    return folder


@pytest.fixture
def mutual(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example plugin's method of two trained networks."""
    monkeypatch.syspath_prepend(repository / "tests" / "example_plugin")
    return importlib.import_module("di4c_example.mutual").Mutual


@pytest.fixture
def make_host(tmp_path: Path) -> MakeHost:
    """Make an empty checkout that bears a host's marks; Hydra can compose its config, if any."""

    def make(name: str) -> Path:
        host, root = host_named(name), tmp_path / name
        config = f"{host.configs}/config.yaml" if host.configs else host.script
        for path in (*host.marks, *host.others, config):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        if host.configs:
            (root / config).write_text("seed: 1\n")
        return root

    return make


@pytest.fixture
def host_checkout(request: pytest.FixtureRequest, repository: Path) -> Path:
    """The real host named by `indirect` parametrisation, for tests marked `host`."""
    host = host_named(request.param)
    root = repository / "external" / host.name
    if not host.is_at(root):
        pytest.skip(f"external/{host.name} is empty: git submodule update --init")
    return root
