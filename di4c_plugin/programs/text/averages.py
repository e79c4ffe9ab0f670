"""The host's EMA over a student's parameters.

The hosts' class keeps a list that it zips with `parameters()`: a list made for another network fits
silently short. So it is made anew from the student, and its names go into the checkpoint.
"""

import itertools
from typing import Any

from torch import Tensor, nn


class FrozenAverage:
    """A host's average that stays as it is, whoever updates it."""

    def __init__(self, ema: Any) -> None:
        self.ema = ema

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ema, name)

    def update(self, parameters: Any) -> None:
        """Do nothing."""


def averaged(module: Any) -> list[tuple[str, nn.Parameter]]:
    """Return names and parameters in the hosts' order: backbone, then noise schedule."""
    return list(
        itertools.chain(
            module.backbone.named_parameters(),
            ((f"noise.{name}", p) for name, p in module.noise.named_parameters()),
        )
    )


def new_average(ema: Any, module: Any) -> Any:
    """Return an average of the host's own class and decay, started from the module's weights."""
    if not ema:
        return None
    return type(ema)([p for _, p in averaged(module)], decay=ema.decay)


def names(module: Any) -> list[str]:
    """Return the name of each entry of the average."""
    return [name for name, p in averaged(module) if p.requires_grad]


def averages(module: Any) -> dict[str, Tensor]:
    """Return the backbone's averaged weights by name; the weights themselves without an EMA."""
    if not module.ema:
        return {n: p.detach().clone() for n, p in module.backbone.named_parameters()}
    pairs = zip(names(module), module.ema.shadow_params, strict=True)
    return {n: p.detach().clone() for n, p in pairs if not n.startswith("noise.")}
