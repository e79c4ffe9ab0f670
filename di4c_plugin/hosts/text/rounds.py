"""Iterated Di4C: the student becomes the teacher of the next round.

Theorem 2 of Di4C (arXiv 2410.08709) does not need a product model as teacher, which is what
licenses this (the released di4c2 students). Tests: tests/hosts/text/test_rounds.py.
"""

import copy
from typing import Any

from torch import Tensor

from di4c_plugin.hosts.text.averages import averages
from di4c_plugin.hosts.text.denoiser import BackboneDenoiser


def round_of(step: int, max_steps: int, rounds: int) -> int:
    """Return the round (from 0) of optimiser update `step`, of `rounds` equal ones."""
    return min(step * rounds // max_steps, rounds - 1) if max_steps > 0 else 0


class Teacher:
    """The frozen network of the round."""

    def __init__(self, denoiser: BackboneDenoiser) -> None:
        self.denoiser = denoiser

    def become(self, module: Any) -> None:
        """Take the averaged weights of the student."""
        self.load(module, averages(module))

    def load(self, module: Any, weights: dict[str, Tensor]) -> None:
        """Be a student with these weights, by name."""
        network = copy.deepcopy(module.backbone)
        own = dict(network.named_parameters())
        for name, value in weights.items():
            own[name].data.copy_(value)
        denoiser = module.as_denoiser(network).eval().requires_grad_(False)
        self.denoiser = denoiser.to(module.device)
