"""The exponential moving average of a network's weights: what is evaluated and saved.

Tests: tests/training/test_ema.py.
"""

import copy

import torch
from torch import nn

from di4c_plugin.models import NetworkDenoiser


class EMA(nn.Module):
    """A frozen copy of a network that follows it: m <- d m + (1 - d) w after every update.

    The decay d of update i is min(decay, (1 + i) / (10 + i)), so that the first weights are soon
    forgotten. Buffers are copied. The copy keeps the weights' own precision, which is fp32 also in
    mixed-precision training.
    """

    def __init__(self, network: NetworkDenoiser, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, update: int) -> None:
        """Follow `network` after its optimiser update number `update`, from 0."""
        decay = min(self.decay, (1 + update) / (10 + update))
        parameters = dict(network.named_parameters())
        for name, mean in self.network.named_parameters():
            mean.lerp_(parameters[name], 1 - decay)
        buffers = dict(network.named_buffers())
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])
