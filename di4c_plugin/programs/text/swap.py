"""Puts ours in the place of a host's class, from which it derives."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

KEPT = "_di4c_own_classes"
CHANGED: list[ModuleType] = []


def own_class(module: ModuleType, name: str) -> type[Any]:
    """Return the host's own class, also where an earlier job of a Hydra multirun has replaced it.

    Such jobs run one after the other in one process. To be called before anything is replaced.
    """
    if module not in CHANGED:
        CHANGED.append(module)
    kept: dict[str, type[Any]] = vars(module).setdefault(KEPT, {})
    return kept.setdefault(name, getattr(module, name))


def swap(module: str, name: str, make: Callable[[type[Any]], type[Any]]) -> None:
    """Put what `make` makes of a host's class in its place."""
    host = importlib.import_module(module)
    setattr(host, name, make(own_class(host, name)))


def restore() -> None:
    """Give the hosts their own classes back: the next job may not ask for ours."""
    for module in CHANGED:
        vars(module).update(vars(module)[KEPT])
