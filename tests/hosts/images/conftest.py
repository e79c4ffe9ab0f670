"""Checkouts of the image hosts: stand-ins with networks of our own, and the real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from di4c_plugin.checkouts import host_named

MODULES = {
    "maskgit": ("Network/transformer.py", "stand_in_maskgit"),
    "halton_maskgit": ("Network/transformer.py", "stand_in_halton"),
    "tauldr": ("lib/networks/networks.py", "stand_in_tauldr"),
}
Root = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.host)])
def root(
    request: pytest.FixtureRequest, make_host: Callable[[str], Path], repository: Path
) -> Root:
    """The root of a host by name: each test runs on the stand-in and on the real host."""

    def find(host: str) -> Path:
        if request.param == "stand-in":
            return stand_in(make_host(host), host)
        return real(repository, host)

    return find


@pytest.fixture
def real_root(repository: Path) -> Root:
    """The root of the real host by name, for tests marked `host`."""
    return lambda host: real(repository, host)


def real(repository: Path, host: str) -> Path:
    place = repository / "external" / host
    if not host_named(host).is_at(place):
        pytest.skip(f"external/{host} is empty: git submodule update --init")
    return place


def stand_in(folder: Path, host: str) -> Path:
    """Have a checkout's network be ours."""
    path, module = MODULES[host]
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(f"from tests.hosts.images.{module} import *  # noqa: F403\n")
    return folder
