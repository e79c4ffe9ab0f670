"""Checkouts of the image hosts: stand-ins with networks of our own, and the real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import host_named

MODULES = {
    "maskgit": ("Network/transformer.py", "stand_in_maskgit"),
    "halton_maskgit": ("Network/transformer.py", "stand_in_halton"),
    "tauldr": ("lib/networks/networks.py", "stand_in_tauldr"),
}
Root = Callable[[str], Path]


def real(repository: Path, host: str) -> Path:
    place = repository / "external" / host
    if not host_named(host).is_at(place):
        pytest.skip(f"external/{host} is empty: git submodule update --init")
    return place


def empty_checkout(folder: Path) -> None:
    """Make a folder that bears the marks of the host with its name."""
    host = host_named(folder.name)
    for mark in (*host.marks, *host.others):
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()


def stand_in(folder: Path, host: str) -> Path:
    """Have a checkout's network be ours."""
    path, module = MODULES[host]
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(f"from tests.stand_ins.images.{module} import *  # noqa: F403\n")
    return folder
