"""A small network of Halton-MaskGIT with random weights; inputs are those of v1."""

from pathlib import Path
from typing import Any

from di4c_plugin.families.halton import HaltonNetworks, HaltonSizes
from tests.stand_ins.images.small_maskgit import K, randomised
from tests.stand_ins.images.small_maskgit import X as X

SIZES = HaltonSizes(hidden=16, codes=7, side=3, depth=3, heads=2, mlp=256, classes=5, registers=2)
NETS = HaltonNetworks()
ABSORBING = {"name": "absorbing", "num_tokens": K + 1, "mask": K}


def plain(root: Path) -> Any:
    return randomised(NETS.at(root).build(SIZES)).eval()
