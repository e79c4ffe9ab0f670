"""Few-step sampling for discrete diffusion models, by distillation.

`load_teacher`, `distill`, `load_student`, `save_student` and `sample` are the Python API; see
`di4c_plugin.api`. They are loaded when first asked for: Hydra imports this package in every app.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from di4c_plugin.api import distill, load_student, load_teacher, sample, save_student

__all__ = ["distill", "load_student", "load_teacher", "sample", "save_student"]


def __getattr__(name: str) -> Any:
    """Load a function of the Python API."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("di4c_plugin.api"), name)
