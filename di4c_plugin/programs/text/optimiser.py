"""The host's own AdamW with a parameter group for each network that a method trains.

All three hosts make `torch.optim.AdamW` of one list of parameters, and a schedule of it, in one
function: the groups must be there when the schedule is made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from di4c_plugin.algorithms.base import Role
from di4c_plugin.training.engine import Engine


@contextmanager
def groups_by_role(engine: Engine) -> Iterator[None]:
    """Let an AdamW that is made in the block have the groups of the engine, if it needs any."""
    adamw = torch.optim.AdamW

    def by_role(parameters: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
        groups = {group["role"]: group for group in engine.groups(lr)}
        groups["student"]["params"] = list(parameters)  # the host's noise schedule too
        return adamw(list(groups.values()), lr=lr, **options)

    with mock.patch.object(torch.optim, "AdamW", adamw if engine.plain else by_role):
        yield


def set_by_role(optimizer: torch.optim.Optimizer, roles: Mapping[str, Role]) -> None:
    """Set each role's learning rate by the student's, and its betas.

    A host's schedule may know one rate only, and `OneCycleLR` moves betas.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        if "role" in group:
            role = roles[group["role"]]
            group["lr"] = groups[0]["lr"] * role.lr / roles["student"].lr
            group["betas"] = role.betas or group["betas"]
