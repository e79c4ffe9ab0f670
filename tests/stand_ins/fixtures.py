"""Fixtures of several folders, for their conftest.py to import."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from di4c_plugin.programs.shims import packages
from tests.conftest import HOSTS
from tests.stand_ins.images.checkouts import Root, real, stand_in
from tests.stand_ins.real import Lab

Launch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Lab:
    """Small runs of the real hosts, and what they share."""
    return Lab(tmp_path_factory.mktemp("lab"), repository)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run `python -m di4c_plugin.programs.launch …` where every package seems installed."""
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for package in {name for host in HOSTS for name in host.needs.split()}:
        if packages.is_missing(package) and not packages.has_stand_in(package):
            (lacking / f"{package}.py").touch()

    def run(
        *arguments: object, cwd: Path = tmp_path, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "di4c_plugin.programs.launch", *map(str, arguments)]
        paths = os.pathsep.join([str(lacking), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": paths} | environment
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Networks are made from the same random numbers in every test."""
    torch.manual_seed(0)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.host)])
def root(
    request: pytest.FixtureRequest, make_host: Callable[[str], Path], repository: Path
) -> Root:
    """The root of an image host by name: each test runs on the stand-in and on the real host."""

    def find(host: str) -> Path:
        if request.param == "stand-in":
            return stand_in(make_host(host), host)
        return real(repository, host)

    return find


@pytest.fixture
def real_root(repository: Path) -> Root:
    """The root of the real image host by name, for tests marked `host`."""
    return lambda host: real(repository, host)
