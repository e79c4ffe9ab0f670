"""A small U-Net of tauLDR with random weights, and inputs for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.families.logistic import logistic_logits
from di4c_plugin.families.tauldr import TauLDRNetworks, TauLDRSizes
from di4c_plugin.families.unet_sizes import Layout
from tests.stand_ins.images.small_maskgit import randomised

E, S = 16, 17
LAYOUT = Layout(channels=8, blocks=1, widths=(1, 2), attention=1, inputs=3, features=E)
SIZES = TauLDRSizes(LAYOUT, shape=(3, 4, 4), num_tokens=S, data_min_max=(0, S - 1))
NETS = TauLDRNetworks()
X = torch.randint(S, (2, 48), generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.3, 0.9], dtype=torch.float64)


class Part(SimpleNamespace):
    """A part of the host's config: attributes, and a way to plain values."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


CONFIG: dict[str, Any] = {
    "data": {"shape": [3, 4, 4], "S": S},
    "model": {
        "data_min_max": [0, S - 1],
        "dropout": 0.1,
        "skip_rescale": True,
        "time_scale_factor": 1000,
        "fix_logistic": False,
        "rate_sigma": 6.0,
        "Q_sigma": 512.0,
        "time_exponential": 100.0,
        "time_base": 3.0,
    },
}


def small(network: nn.Module) -> nn.Module:
    """Random weights whose outputs are not all in the tails."""
    randomised(network)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(0.3)
    return network


def plain(root: Path) -> Any:
    return small(NETS.at(root).build(SIZES)).eval()


def log_p_of(out: Tensor) -> Tensor:
    """Of the U-Net's output; for the function itself see test_logistic and test_hosts_model."""
    mu, s = (half.flatten(1) for half in out.chunk(2, 1))
    return logistic_logits(mu, s, S).log_softmax(-1)
