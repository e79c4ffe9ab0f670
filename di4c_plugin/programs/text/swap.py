"""Replaces a host's class by a subclass of ours."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

KEPT = "_di4c_own_classes"
CHANGED: list[ModuleType] = []


def own_class(module: ModuleType, name: str) -> type[Any]:
    """Return the host's own class, even if an earlier job of a Hydra multirun replaced it.

    Such jobs run one after the other in one process. Call this before replacing a class.
    """
    if module not in CHANGED:
        CHANGED.append(module)
    kept: dict[str, type[Any]] = vars(module).setdefault(KEPT, {})
    return kept.setdefault(name, getattr(module, name))


def swap(module: str, name: str, make: Callable[[type[Any]], type[Any]]) -> None:
    """Replace a host's class by the class that `make` returns for it."""
    host = importlib.import_module(module)
    setattr(host, name, make(own_class(host, name)))


def restore() -> None:
    """Restore the hosts' own classes: the next job may not select ours."""
    for module in CHANGED:
        vars(module).update(vars(module)[KEPT])
