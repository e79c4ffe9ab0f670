"""The host's own AdamW with a parameter group for each trained network.

The hosts make `torch.optim.AdamW` from one list of parameters, and its schedule, in one function:
the groups must exist before the schedule.
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
    """Make an AdamW created in the block use the engine's groups, unless the host's suffice."""
    adamw = torch.optim.AdamW

    def by_role(parameters: Any, lr: float, **options: Any) -> torch.optim.Optimizer:
        groups = {group["role"]: group for group in engine.groups(lr)}
        student = groups.pop("student")
        others = {id(p) for group in groups.values() for p in group["params"]}
        # The host's noise schedule too; a host may pass all that the module has.
        student["params"] = [p for p in parameters if id(p) not in others]
        return adamw([student, *groups.values()], lr=lr, **options)

    with mock.patch.object(torch.optim, "AdamW", adamw if engine.plain else by_role):
        yield


def set_by_role(optimizer: torch.optim.Optimizer, roles: Mapping[str, Role]) -> None:
    """Set each role's learning rate, relative to the student's, and its betas.

    A host's schedule may set one rate only, and `OneCycleLR` changes betas.
    """
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        if "role" in group:
            role = roles[group["role"]]
            group["lr"] = groups[0]["lr"] * role.lr / roles["student"].lr
            group["betas"] = role.betas or group["betas"]
