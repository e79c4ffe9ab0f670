"""Groups of the host's optimiser by role: a schedule of the host does not move what a role asks."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from di4c_plugin.algorithms.base import Role
from di4c_plugin.programs.text.optimiser import groups_by_role, set_by_role


def test_a_schedule_that_cycles_momentum_leaves_the_betas_of_a_role() -> None:
    roles = {"student": Role(betas=(0.0, 0.99)), "auxiliary": Role(lr=2.0)}
    groups = [{"params": nn.Linear(2, 2).parameters(), "role": name} for name in roles]
    optimizer = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    for _ in range(3):
        set_by_role(optimizer, roles)
        student, auxiliary = optimizer.param_groups
        assert student["betas"] == (0.0, 0.99)
        assert auxiliary["betas"][0] > 0.8  # the program's
        assert auxiliary["lr"] == 2 * student["lr"]
        optimizer.step()
        schedule.step()


def test_a_host_may_pass_all_its_parameters() -> None:
    """As most modules of Lightning do, the networks of the other roles among them."""
    networks = nn.ModuleDict({"peer": nn.Linear(2, 2), "student": nn.Linear(2, 2)})
    own = nn.Parameter(torch.zeros(1))

    def groups(lr: float) -> list[dict[str, Any]]:
        return [{"params": [*networks[n].parameters()], "lr": lr, "role": n} for n in networks]

    engine: Any = SimpleNamespace(plain=False, groups=groups)
    with groups_by_role(engine):
        optimizer = torch.optim.AdamW([*networks.parameters(), own], lr=0.1)
    student, peer = optimizer.param_groups
    assert (student["role"], peer["role"]) == ("student", "peer")
    assert student["params"] == [*networks["student"].parameters(), own]
    assert peer["params"] == [*networks["peer"].parameters()]
