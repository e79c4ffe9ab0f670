import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from di4c_plugin.training.schedule import lr_factor


@pytest.mark.parametrize("steps", [10, 37, 1500])
@pytest.mark.parametrize("warmup", [0.3, 0.5])
def test_one_cycle_is_that_of_torch(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    expected = OneCycleLR(optimizer, 2.0, steps, pct_start=warmup, cycle_momentum=False)
    for update in range(steps):
        factor = lr_factor(update, steps=steps, schedule="one_cycle", warmup=warmup)
        assert 2 * factor == pytest.approx(expected.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if update + 1 < steps:
            expected.step()


def test_constant_stays_after_the_warmup() -> None:
    factors = [lr_factor(i, steps=100, schedule="constant", warmup=0.1) for i in range(120)]
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[:10] == sorted(factors[:10])
    assert factors[9:] == [1.0] * 111


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_have_a_learning_rate(schedule: str, warmup: float, steps: int) -> None:
    factors = [lr_factor(i, steps=steps, schedule=schedule, warmup=warmup) for i in range(steps)]
    assert factors[0] == 1.0
    assert all(0 < factor <= 1 for factor in factors)
