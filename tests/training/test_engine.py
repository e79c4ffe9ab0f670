"""What happens in an update, without any program around it."""

from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Algorithm, Batch, LossTerms, Networks, Role, Update
from di4c_plugin.errors import UserError
from di4c_plugin.training.ema import EMA
from di4c_plugin.training.engine import Engine, round_of
from tests.training import toy

CPU = torch.device("cpu")


class Seen(Algorithm):
    """Trains the student and a peer in turn, and remembers what it was given."""

    def __init__(self, **options: Any) -> None:
        self.roles = {"student": Role(), "peer": Role(averaged=True, lr=0.5, betas=(0.0, 0.99))}
        self.seen: list[tuple[Update, set[str], float]] = []
        vars(self).update(options)

    def trained(self, update: Update) -> Collection[str]:
        return ("peer",) if update.index % 2 else ("student",)

    def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
        draw = float(torch.rand((), generator=update.generator))
        self.seen.append((update, set(networks), draw))
        (role,) = self.trained(update)
        weight: Tensor = next(networks[role].parameters())  # type: ignore[attr-defined]
        return LossTerms({role: weight.sum()}, {})


def engine(method: Algorithm | None = None, **options: Any) -> Engine:
    networks = {name: toy.teacher().denoiser for name in ("student", "peer")}
    averages = {"peer": EMA(networks["peer"], 0.5)}
    made = method or Seen()
    return Engine(made, networks, toy.teacher().denoiser, averages=averages, **options)


def losses(made: Engine, index: int = 0, total: int = 4, rank: int = 0, step: int = 0) -> LossTerms:
    batch = Batch(toy.data().x_0)
    return made.losses(batch, index, total, rank=rank, step=step, device=CPU)


def takes_gradients(made: Engine) -> set[str]:
    return {
        name
        for name, network in made.trained_networks.items()
        if all(p.requires_grad for p in network.parameters())
    }


@pytest.mark.parametrize(
    ("updates", "rounds", "want"),
    [
        (6, 1, [0] * 7),
        (6, 2, [0, 0, 0, 1, 1, 1, 1]),
        (7, 2, [0, 0, 0, 0, 1, 1, 1, 1]),
        (6, 3, [0, 0, 1, 1, 2, 2, 2]),
    ],
)
def test_rounds_are_equal_parts_of_the_updates(updates: int, rounds: int, want: list[int]) -> None:
    assert [round_of(index, updates, rounds) for index in range(len(want))] == want


def test_gradients_reach_the_role_of_the_update_and_all_between_updates() -> None:
    made = engine()
    for index, role in enumerate(["student", "peer", "student"]):
        made.begin(index, 4)
        assert takes_gradients(made) == {role}
        losses(made, index).total.backward()
        made.finish(index, 4)
        assert takes_gradients(made) == {"student", "peer"}


def test_a_method_sees_its_networks_averages_and_the_teacher() -> None:
    method = Seen()
    made = engine(method)
    losses(made, index=3, total=4)
    ((update, names, _),) = method.seen
    assert names == {"student", "peer", "peer_average", "teacher"}
    assert (update.index, update.progress, update.round, update.rounds) == (3, 0.75, 0, 1)


def test_draws_are_a_function_of_seed_rank_and_step() -> None:
    method = Seen()
    one, other = engine(method, seed=1), engine(method, seed=2)
    state = torch.get_rng_state()
    for made, key in ((one, {}), (one, {"rank": 1}), (one, {"step": 1}), (other, {}), (one, {})):
        losses(made, **key)
    draws = [draw for _, _, draw in method.seen]
    assert draws[0] == draws[4]
    assert len(set(draws)) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_only_averages_of_what_was_trained_move() -> None:
    made = engine()
    with torch.no_grad():
        for p in made.trained_networks["peer"].parameters():
            p.add_(1)
    before = next(made.averages["peer"].network.parameters()).clone()
    made.finish(0, 4)
    assert torch.equal(next(made.averages["peer"].network.parameters()), before)
    made.finish(1, 4)
    assert not torch.equal(next(made.averages["peer"].network.parameters()), before)


def test_parameter_groups_have_the_rates_of_their_roles() -> None:
    made = engine()
    student, peer = made.groups(0.2)
    assert (student["role"], student["lr"]) == ("student", 0.2)
    assert (peer["role"], peer["lr"], peer["betas"]) == ("peer", 0.1, (0.0, 0.99))
    torch.optim.AdamW(made.groups(0.2))
    assert not made.plain
    alone = Engine(toy.Distil(toy.teacher().process), {"student": toy.student().denoiser}, None)
    assert alone.plain


def test_each_role_is_clipped_by_itself() -> None:
    made = engine()
    for index, scale in enumerate((1.0, 100.0)):
        name = ("student", "peer")[index]
        for p in made.trained_networks[name].parameters():
            p.grad = torch.full_like(p, scale)
    norms = made.clip(0.5)
    assert norms["peer"] == pytest.approx(100 * float(norms["student"]))
    for network in made.trained_networks.values():
        gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        assert float(torch.stack(gradients).norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_round_renews_what_the_method_asks_for() -> None:
    successor = toy.teacher().denoiser
    method = Seen(rounds=2, renew=("optimiser", "average"))
    made = engine(method, next_teacher=lambda: successor)
    optimizer = torch.optim.AdamW(made.groups(0.1))
    made.begin(0, 4, optimizer)
    losses(made).total.backward()
    optimizer.step()
    made.averages["peer"].updates = 7
    assert optimizer.state
    assert not made.begin(1, 4, optimizer)
    assert made.begin(2, 4, optimizer)
    assert made.teacher is successor
    assert not optimizer.state
    assert made.averages["peer"].updates == 0
    assert not made.begin(3, 4, optimizer)


def test_less_than_a_round_is_refused() -> None:
    with pytest.raises(UserError, match="rounds must be at least 1, not 0"):
        engine(rounds=0)


@pytest.mark.parametrize("finite", [True, False])
def test_what_cannot_be_drawn_from_weights_that_are_not_finite_is_one_line(finite: bool) -> None:
    class Draws(Seen):
        def losses(self, batch: Batch, networks: Networks, update: Update) -> LossTerms:
            raise RuntimeError("index 17 is out of bounds for dimension 2 with size 17")

    made = engine(Draws())
    if finite:
        with pytest.raises(RuntimeError, match="out of bounds"):
            losses(made, 2)
        return
    with torch.no_grad():
        next(made.trained_networks["peer"].parameters()).fill_(float("inf"))
    with pytest.raises(UserError, match="of the peer is not finite at update 2; a smaller lr may"):
        losses(made, 2)
