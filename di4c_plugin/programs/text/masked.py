"""Shared by MDLM and SDTT: masked diffusion with a log-linear schedule."""

from collections.abc import Mapping
from typing import Any

from di4c_plugin.diffusion import Absorbing, LogLinear
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.generation import TextSampler


class MaskedStudent(TextSampler):
    """A student whose host keeps `mask_index`, `vocab_size` and a log-linear `noise`."""

    def make_process(self) -> Absorbing:
        """See `TextStudent.make_process`."""
        schedule = LogLinear(eps=float(self.noise.eps))
        return Absorbing(int(self.vocab_size), schedule, mask=int(self.mask_index))


def check_time(config: Mapping[str, Any]) -> None:
    """Raise UserError for a network whose time input is not sigma."""
    if config["time_conditioning"] and (config["T"] or config["training"]["change_of_variables"]):
        raise UserError("time_conditioning needs T=0 and training.change_of_variables=false")
