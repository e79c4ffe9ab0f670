"""Our samplers as the program of the toy calls its own: `sample(count, steps) -> list of pairs`."""

from typing import Any

import torch
from torch import Tensor

from di4c_example.two_bits import PROCESS, exact_teacher
from di4c_plugin.programs.images.sampler import HostSampler, Request
from di4c_plugin.programs.images.trace import Trace


class Exact:
    """The network of the program."""

    process = PROCESS

    def __call__(self, x_t: Tensor, t: Tensor, **given: Any) -> Tensor:
        """See `exact_teacher`."""
        return exact_teacher(x_t, t, **given)


class PairSampler(HostSampler):
    """Samples are lists here; there is nothing else that the program could ask for."""

    host = "two_bits"

    def request(self, count: int, steps: int) -> Request:
        """See `HostSampler.request`."""
        x = torch.full((count, 2), PROCESS.mask)
        return Request(Exact(), x, self.steps_of(steps), PROCESS)

    def result(self, drawn: Trace, count: int, steps: int) -> list[list[int]]:
        """See `HostSampler.result`."""
        pairs: list[list[int]] = drawn.x.tolist()
        return pairs
