"""The built-in host: scikit-learn's 8x8 handwritten digits, which every install has.

1797 images, 64 positions, grey levels 0 ... 16, labels 0 ... 9 (Alpaydin & Kaynak 1998, UCI
"Optical Recognition of Handwritten Digits"). The command that made `teacher.safetensors` is in its
metadata and in configs/README.md.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, build_process
from di4c_plugin.errors import UserError, refusing
from di4c_plugin.families import load_model
from di4c_plugin.families.transformer import TransformerNetworks
from di4c_plugin.hosts.base import Host, HostData, OpenHost
from di4c_plugin.limits import exceeds, over
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.options import fitted
from di4c_plugin.values import shown

SIDE = 8
LEVELS = 17
# Limits of a new network: its weights, and the ranges of sizes other than [1, 2^20].
WEIGHTS = 10**9
LEAST, MOST = {"mask": 0, "num_classes": 0}, {"num_blocks": 1000}
TEACHER = Path(__file__).parent / "teacher.safetensors"


class Digits(HostData):
    """The digits and their pictures."""

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: x_0 (1797, 64)."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Data(torch.from_numpy(digits.data).long(), torch.from_numpy(digits.target).long())

    def images(self, host: OpenHost, x: Tensor) -> Tensor:
        """See `HostData.images`: (n, 1, 8, 8), dark on light."""
        check_size(x)
        grey = (255 - x.clamp(max=LEVELS - 1) * 255 / (LEVELS - 1)).round()
        return grey.where(x < LEVELS, 128).byte().view(-1, 1, SIDE, SIDE)

    def picture(self, host: OpenHost, x: Tensor, path: Path) -> None:
        """See `HostData.picture`: a PNG grid of digits."""
        from di4c_plugin.evaluation.pictures import image_grid

        check_size(x)
        image_grid(x.view(-1, SIDE, SIDE), path, levels=LEVELS)


def check_size(x: Tensor) -> None:
    """Raise UserError for samples (n, D) that are not the size of a digit."""
    if x.shape[1] != SIDE * SIDE:
        raise UserError(f"host 'builtin' draws {SIDE}x{SIDE} images, not {x.shape[1]} tokens")


def new_teacher(process: dict[str, Any], **sizes: Any) -> Model:
    """See `Host.new_teacher`; `sizes` are fields of `TransformerConfig`."""
    built_process = build_process({"num_tokens": LEVELS} | process)
    mask = built_process.mask if isinstance(built_process, Absorbing) else None
    defaults: dict[str, Any] = {
        "num_tokens": LEVELS,
        "num_states": built_process.num_states,
        "grid": (SIDE, SIDE),
        "patch": (2, 2),
        "mask": mask,
        "time_conditioned": mask is None,
    }
    what = "host 'builtin' cannot make this teacher"
    options = fitted(TransformerConfig, defaults | sizes, what)
    for name, value in options.items():
        least, most = LEAST.get(name, 1), MOST.get(name, 2**20)
        numbers = value if isinstance(value, tuple) else [value]
        if any(type(number) is int and not least <= number <= most for number in numbers):
            raise UserError(f"{what}: {name} must be in [{least}, {most}], not {shown(value)}")
    with refusing(what):
        config, family = TransformerConfig(**options), TransformerNetworks()
        outline = family.outline(config, process=built_process)
        count = sum(weight.numel() for weight in outline.parameters())
        if exceeds(count, WEIGHTS):
            raise UserError(over(f"a network of {count} weights, which is more than {WEIGHTS}"))
        return family.new(config, built_process)


FAMILY = TransformerNetworks()
HOST = Host("builtin", FAMILY, Digits, new_teacher=new_teacher)


def load_builtin(name: str) -> Model:
    """Load a teacher that ships with the package: "digits".

    Raises:
        UserError: for any other name.
    """
    if name != "digits":
        raise UserError(f"unknown built-in teacher {name!r}; there are: digits")
    return load_model(TEACHER)
