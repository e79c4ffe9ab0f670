"""Guidance against its formula, over all states of two positions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import LOG_ZERO, Absorbing, Process, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import Guided
from di4c_plugin.samplers.guidance import guide
from tests.enumeration import TableDenoiser, states

D = 2


class Labelled:
    """A table for each label, the last one for none (-1)."""

    def __init__(self, process: Process, components: int = 1, seed: int = 0) -> None:
        self.tables = [TableDenoiser(process, D, components, seed=seed + k) for k in range(3)]
        self.latent_shape = self.tables[0].latent_shape
        self.calls: list[tuple[Tensor | None, Tensor | None]] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.calls.append((cond, latent))
        cond = torch.full_like(x_t[:, 0], -1) if cond is None else cond
        every = torch.stack([table(x_t, t, latent=latent) for table in self.tables])
        cond = cond.repeat(every.shape[1] // len(cond))
        return every[cond, torch.arange(every.shape[1])]


def every_state(process: Process, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """All x_t with times and labels 0, 1, 0, 1 ..."""
    x = states(process.num_states, D)
    return x, torch.full((len(x),), t, dtype=torch.float64), torch.arange(len(x)) % 2


every_process = pytest.mark.parametrize(
    "process", [Absorbing(3), Absorbing(3, mask=1), Uniform(3)], ids=["mask", "token", "uniform"]
)


@every_process
@pytest.mark.parametrize("ramp", ["linear", "constant"])
@pytest.mark.parametrize("components", [1, 2])
def test_a_prediction_is_the_formula(process: Process, ramp: str, components: int) -> None:
    model, times = Labelled(process, components), time_grid(4)
    guided = Guided(model, 2.5, times=times, ramp=ramp)
    assert guided.latent_shape == model.latent_shape
    for index, start in enumerate(times[:-1].tolist()):
        x, t, cond = every_state(process, start)
        latent = None if components == 1 else torch.rand(len(x), 1)
        w = 2.5 * (index / 3 if ramp == "linear" else 1)
        p_c = model(x, t, cond=cond, latent=latent).exp()
        p_u = model(x, t, cond=torch.full_like(cond, -1), latent=latent).exp()
        want = (p_c ** (1 + w) / p_u**w).nan_to_num(0)
        found = guided(x, t, cond=cond, latent=latent)
        assert found.isfinite().all()
        torch.testing.assert_close(found.exp(), want / want.sum(-1, keepdim=True))


@every_process
def test_weight_0_is_the_conditional_model_bit_for_bit(process: Process) -> None:
    model = Labelled(process)
    x, t, cond = every_state(process, 0.7)
    guided = Guided(model, 0.0, times=time_grid(3))
    want = model(x, t, cond=cond)
    model.calls.clear()
    assert torch.equal(guided(x, t, cond=cond), want)
    assert len(model.calls) == 1, "nor does it cost anything"
    assert guide(model, time_grid(3), 0.0, "linear", None) is model


@every_process
def test_the_first_step_of_a_ramp_is_the_conditional_model(process: Process) -> None:
    model = Labelled(process)
    x, t, cond = every_state(process, 1.0)
    assert torch.equal(
        Guided(model, 4.0, times=time_grid(3))(x, t, cond=cond), model(x, t, cond=cond)
    )


def test_one_step_has_the_whole_weight() -> None:
    guided = Guided(Labelled(Absorbing(3)), 3.0, times=time_grid(1))
    assert guided.weight_at(torch.ones(2)).tolist() == [3, 3]


def test_the_weight_is_told_by_the_time_alone() -> None:
    """Twice at the same time, in any order, between grid points, and at the end of the grid."""
    times = torch.tensor([1.0, 0.9, 0.3, 0.1], dtype=torch.float64)
    guided = Guided(Labelled(Absorbing(3)), 2.0, times=times)
    t = torch.tensor([0.3, 1.0, 0.9, 0.3, 0.5, 0.1, 0.0], dtype=torch.float64)
    assert guided.weight_at(t).tolist() == [2, 0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("weight", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_point_masses_stay_point_masses(weight: float, dtype: torch.dtype) -> None:
    class Carried(Labelled):
        def __call__(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
            return super().__call__(x_t, t, **options).to(dtype)

    process = Absorbing(4, mask=3)
    x, t, cond = every_state(process, 0.5)
    found = Guided(Carried(process), weight, times=time_grid(1))(x, t, cond=cond)
    assert found.dtype == dtype
    assert found.isfinite().all()
    known = found[~process.active(x)]
    assert known.max() == 0
    assert (known == LOG_ZERO).sum(-1).eq(3).all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(x.shape, dtype=dtype))


def test_both_branches_see_the_same_lambda() -> None:
    model = Labelled(Absorbing(3), 2)
    x, t, cond = every_state(model.tables[0].process, 1.0)
    latent = torch.rand(2 * len(x), 1)
    found = Guided(model, 2.0, times=time_grid(1))(x, t, cond=cond, latent=latent)
    assert len(found) == 2 * len(x)
    (_, one), (none, two) = model.calls
    assert one is latent
    assert two is latent
    assert none is not None
    assert (none == -1).all()


@pytest.mark.parametrize("components", [1, 2])
def test_a_teacher_predicts_without_a_class_and_without_lambda(components: int) -> None:
    process = Absorbing(3)
    model, teacher = Labelled(process, 2), Labelled(process, components, seed=7)
    x, t, cond = every_state(process, 1.0)
    latent = torch.rand(2 * len(x), 1)
    guided = Guided(model, 1.5, times=time_grid(1), unconditional=teacher)
    found = guided(x, t, cond=cond, latent=latent)
    c = model(x, t, cond=cond, latent=latent)
    given = latent if components > 1 else None
    u = teacher(x, t, cond=torch.full_like(cond, -1), latent=given)
    u = u.repeat(len(c) // len(u), 1, 1)
    torch.testing.assert_close(found, (2.5 * c - 1.5 * u).log_softmax(-1), atol=1, rtol=1e-6)
    torch.testing.assert_close(found.exp(), (2.5 * c - 1.5 * u).softmax(-1))
    assert teacher.calls[0][1] is given


def test_examples_without_label_are_not_guided() -> None:
    model = Labelled(Absorbing(3))
    x, t, cond = every_state(model.tables[0].process, 1.0)
    none = torch.full_like(cond, -1)
    found = Guided(model, 5.0, times=time_grid(1))(x, t, cond=none)
    torch.testing.assert_close(found, model(x, t, cond=none))


def test_networks_are_switched_to_eval_together() -> None:
    one, other = nn.Dropout(), nn.Dropout()
    guided = Guided(one, 1.0, times=time_grid(1), unconditional=other)
    guided.eval()
    assert not one.training
    assert not other.training


def test_mistakes_are_told() -> None:
    model = Labelled(Absorbing(3))
    x, t, _ = every_state(model.tables[0].process, 1.0)
    with pytest.raises(UserError, match="'cubic'; there are linear, constant"):
        Guided(model, 1.0, times=time_grid(1), ramp="cubic")
    with pytest.raises(UserError, match="guidance is towards a class: give labels"):
        Guided(model, 1.0, times=time_grid(1))(x, t)
    with pytest.raises(UserError, match="guidance_teacher takes a model, not 'teacher.pt'"):
        guide(model, time_grid(1), 1.0, "linear", "teacher.pt")  # type: ignore[arg-type]
