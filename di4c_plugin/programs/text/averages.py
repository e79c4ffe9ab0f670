"""The host's EMA over a student's parameters.

The hosts' class zips a list with `parameters()`: a list for another network would be cut silently.
So we make a new one from the student, and save its names in the checkpoint.
"""

import itertools
from typing import Any

from torch import Tensor, nn


class FrozenAverage:
    """A host's average that ignores updates."""

    def __init__(self, ema: Any) -> None:
        self.ema = ema

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ema, name)

    def update(self, parameters: Any) -> None:
        """Do nothing."""


def averaged(module: Any) -> list[tuple[str, nn.Parameter]]:
    """Return names and parameters in the hosts' order: backbone, then noise schedule, if any."""
    noise = getattr(module, "noise", None)
    return list(
        itertools.chain(
            module.backbone.named_parameters(),
            ((f"noise.{name}", p) for name, p in noise.named_parameters())
            if noise is not None
            else (),
        )
    )


def new_average(ema: Any, module: Any) -> Any:
    """Return an average of the host's class and decay that starts from the module's weights."""
    if not ema:
        return None
    return type(ema)([p for _, p in averaged(module)], decay=ema.decay)


def names(module: Any) -> list[str]:
    """Return the name of each entry of the average."""
    return [name for name, p in averaged(module) if p.requires_grad]


def averages(module: Any) -> dict[str, Tensor]:
    """Return copies of the backbone's averaged weights by name; of the weights without an EMA."""
    if not module.ema:
        return {n: p.detach().clone() for n, p in module.backbone.named_parameters()}
    pairs = zip(names(module), module.ema.shadow_params, strict=True)
    return {n: p.detach().clone() for n, p in pairs if not n.startswith("noise.")}
