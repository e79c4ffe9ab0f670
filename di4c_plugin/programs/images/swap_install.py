"""Puts ours into a program without Hydra when its modules are imported.

Nothing but the standard library is imported before the host itself is.
"""

import importlib
from pathlib import Path

from di4c_plugin.programs.images.swap_flags import Flags
from di4c_plugin.programs.shims.after_import import Patch, after_import


def install(host: str, root: Path, flags: Flags | None) -> None:
    """Have the modules of a host's program get ours."""
    for module, patch in patches(host, root, flags).items():
        after_import(module, patch)


def patches(host: str, root: Path, flags: Flags | None) -> dict[str, Patch]:
    """Return by module what is done to it: what the host's room in `programs` says."""
    found: dict[str, Patch] = importlib.import_module(f"di4c_plugin.programs.{host}").patches(
        root, flags
    )
    return found
