"""A remedy of SDTT's own. Standard library only at module level: this runs before torch."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from di4c_plugin.checkouts import Remedy


def modulation_as_scripted(models: ModuleType) -> None:
    """Make SDTT's `modulate_fused` mean the same to `torch.compile` as it does uncompiled.

    TorchScript takes the first of two functions named `modulate`; `torch.compile` reads the source
    anew, finds the second, and broadcasts the batch with itself.
    """
    scripted: Callable[..., Any] = models.modulate_fused

    def modulate_fused(x: Any, shift: Any, scale: Any) -> Any:
        import torch

        if torch.compiler.is_compiling():
            return x * (1 + scale) + shift
        return scripted(x, shift, scale)

    models.modulate_fused = modulate_fused  # type: ignore[attr-defined]


MODULATION_AS_SCRIPTED = Remedy(
    module="sdtt.models.dit_orig",
    patch=modulation_as_scripted,
    when="compile=true",
    what="modulate_fused computes what it computes uncompiled",
)
