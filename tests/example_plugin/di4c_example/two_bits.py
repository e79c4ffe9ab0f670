"""Two identical bits: the smallest data that a product model cannot draw in one step.

The data are 00 and 11, each with probability 1/2. `exact_teacher` knows every conditional, and
still one step of it gives 01 or 10 half the time.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.families.transformer import TransformerNetworks
from di4c_plugin.files import atomic_write
from di4c_plugin.hosts import Host, HostData, OpenHost
from di4c_plugin.networks import TransformerConfig

PROCESS = Absorbing(2)


class Pairs(HostData):
    """The toy's data."""

    def read(self, host: OpenHost) -> Data:
        """See `HostData.read`: x_0 (256, 2)."""
        return Data((torch.arange(256) % 2).unsqueeze(-1).repeat(1, 2))

    def picture(self, host: OpenHost, x: Tensor, path: Path) -> None:
        """See `HostData.picture`: how often each of the four pairs was drawn."""
        from matplotlib.figure import Figure

        counts = torch.bincount(x[:, 0] * 2 + x[:, 1], minlength=4)
        figure = Figure()
        figure.subplots().bar(["00", "01", "10", "11"], counts.tolist())
        with atomic_write(path) as temporary:
            figure.savefig(temporary)


def new_teacher(process: dict[str, Any], **sizes: Any) -> Model:
    """See `Host.new_teacher`; only the absorbing process will do."""
    if process.get("name", "absorbing") != "absorbing":
        raise UserError(f"host 'two_bits' is for process 'absorbing', not {process['name']!r}")
    defaults = {"hidden_size": 16, "embedding_size": 8, "num_blocks": 2, "num_heads": 2}
    shape = {"num_tokens": 2, "num_states": 3, "grid": (1, 2), "patch": (1, 1)}
    config = TransformerConfig(**(defaults | sizes | shape), mask=PROCESS.mask)
    return new_model(config, PROCESS)


HOST = Host("two_bits", TransformerNetworks(), Pairs, new_teacher=new_teacher)


def exact_teacher(
    x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
) -> Tensor:
    """Return the exact log p_{0|t}, shape (B, 2, 2): a `Denoiser` of `PROCESS`."""
    other = x_t.flip(-1)
    known = one_hot(other.clamp(max=1), 2).double().clamp(1e-6, 1 - 1e-6)
    p_0 = known.where((other != PROCESS.mask).unsqueeze(-1), 0.5)
    return PROCESS.carry_over(p_0.log(), x_t)
