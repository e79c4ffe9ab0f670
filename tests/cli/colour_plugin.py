"""A plugin of the tests: a host of colour pictures with classes, and a metric of pictures.

Its pictures are 2 x 3 pixels in three channels of four levels, and 4 is unknown; the classes are
red and blue.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin import plugins
from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.picture_metric import MetricOptions, PictureMetric, Reference
from di4c_plugin.families import new_model
from di4c_plugin.families.transformer import TransformerNetworks
from di4c_plugin.hookspecs import hookimpl
from di4c_plugin.hosts import Host, HostData, OpenHost
from di4c_plugin.networks import TransformerConfig

SHAPE = (3, 2, 3)
SIZES: dict[str, Any] = {"hidden_size": 8, "embedding_size": 4, "num_blocks": 1, "num_heads": 1}


class Colour(HostData):
    """Colour pictures; `labelled=false` forgets their classes."""

    def __init__(self, labelled: bool = True) -> None:
        self.labelled = labelled

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: three of four are red."""
        red = torch.tensor([3, 0, 0]).repeat_interleave(6)
        x = torch.stack([red, red, red, red.flip(0)]).repeat(5, 1)
        labels = torch.tensor([0, 0, 0, 1]).repeat(5)
        # The smallest type, as hosts keep codes: what is computed from it must not overflow.
        return Data(x.to(torch.int8), labels if self.labelled else None)

    def images(self, host: OpenHost, x: Tensor) -> Tensor:
        """See `HostData.images`."""
        if x.shape[1] != 18:
            raise UserError(f"pictures have 18 levels, not {x.shape[1]}")
        return (x * 85).where(x < 4, 128).byte().view(-1, *SHAPE)


def new_teacher(process: dict[str, Any], **sizes: Any) -> Model:
    """See `Host.new_teacher`."""
    network = TransformerConfig(
        num_tokens=4, num_states=5, grid=(1, 18), mask=4, num_classes=2, **SIZES
    )
    return new_model(network, Absorbing(4))


HOST = Host("colour", TransformerNetworks(), Colour, new_teacher=new_teacher)


class Brightness(PictureMetric):
    """How far the mean of all values is from that of the reference."""

    columns = ("brightness", "pictures")

    def __init__(self, reference: Reference, options: MetricOptions) -> None:
        """See `PictureMetric`."""
        self.name = reference.name
        self.mean = torch.cat([*reference.batches()]).double().mean()

    def __call__(self, pictures: Iterable[Tensor]) -> dict[str, float]:
        """See `PictureMetric`."""
        x = torch.cat([*pictures]).double()
        return {"brightness": float((x.mean() - self.mean).abs()), "pictures": len(x)}

    def notes(self) -> dict[str, str]:
        """See `PictureMetric`."""
        return {"reference": self.name}


@hookimpl
def di4c_hosts() -> Mapping[str, object]:
    """Add `colour`."""
    return {"colour": HOST}


@hookimpl
def di4c_metrics() -> Mapping[str, object]:
    """Add `brightness`."""
    return {"brightness": Brightness}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load this plugin beside the built-ins."""
    entry = EntryPoint(name="colour", value=__name__, group=plugins.GROUP)
    manager = plugins.PluginManager([plugins.BUILTINS, entry])
    monkeypatch.setattr(plugins, "get_manager", lambda: manager)


def save_teacher(path: Path) -> None:
    """Write a small teacher with random weights that follows its labels."""
    torch.manual_seed(0)
    model = new_teacher({})
    with torch.no_grad():
        model.denoiser.get_parameter("network.label.weight").mul_(20)
    model.save(path)
