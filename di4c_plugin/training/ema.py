"""The exponential moving average of a network's weights: what is evaluated and saved."""

import torch
from torch import nn

from di4c_plugin.networks import NetworkDenoiser
from di4c_plugin.networks.sharing import copied


class EMA(nn.Module):
    """A frozen copy m that tracks a network's weights w: m <- d m + (1 - d) w after every update.

    The decay d of update i is min(decay, (1 + i) / (10 + i)), so that the initial weights are soon
    forgotten; i counts from 0, and again from 0 after `restart`. Buffers are copied. The copy has
    the weights' precision, which is fp32 in mixed-precision training too. It shares any base that
    the network shares with others.
    """

    def __init__(self, network: NetworkDenoiser, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.network = copied(network).eval().requires_grad_(False)
        self.updates = 0

    def get_extra_state(self) -> dict[str, int]:
        """Return the checkpoint entry beside the weights."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """See `get_extra_state`."""
        self.updates = state["updates"]

    def restart(self, network: nn.Module) -> None:
        """Start again from the network's current weights."""
        self.network.load_state_dict(network.state_dict())
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards `network` after one of its optimiser updates."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        parameters = dict(network.named_parameters())
        for name, mean in self.network.named_parameters():
            if mean is not parameters[name]:
                mean.lerp_(parameters[name], 1 - decay)
        buffers = dict(network.named_buffers())
        for name, buffer in self.network.named_buffers():
            buffer.copy_(buffers[name])
