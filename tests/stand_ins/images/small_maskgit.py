"""A small network of MaskGIT-pytorch v1 with random weights, and inputs for it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from di4c_plugin.checkpoints.weights import Weights, fingerprint
from di4c_plugin.families.maskgit import MaskGITNetworks, MaskGITSizes

SIZES = MaskGITSizes(hidden=16, codes=7, side=3, depth=2, heads=2, mlp=24, classes=5)
NETS = MaskGITNetworks()
D, K, T = 9, 7, torch.tensor([0.5, 0.5], dtype=torch.float64)
X = torch.randint(K + 1, (2, D), generator=torch.Generator().manual_seed(0))
COND = torch.tensor([3, -1])
LAM = torch.rand(2, 1, generator=torch.Generator().manual_seed(1))


def randomised(network: nn.Module) -> nn.Module:
    """Random weights, none of them zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return network


def as_weights(network: nn.Module) -> Any:
    tensors = network.state_dict()
    return Weights(tensors, None, {}, None, "a network", fingerprint(tensors))


def plain(root: Path) -> Any:
    """The host's own network."""
    return randomised(NETS.at(root).build(SIZES)).eval()
