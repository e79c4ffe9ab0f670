"""Checkouts of the hosts: the real ones where they are, small stand-ins everywhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from di4c_plugin.checkouts import HOSTS
from di4c_plugin.programs.shims import packages
from tests.hosts.real import Lab

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
