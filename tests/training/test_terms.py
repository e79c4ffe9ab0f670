import torch

from di4c_plugin.training.terms import RunningMeans


def test_each_name_has_the_mean_over_the_times_it_came() -> None:
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    means.add({"a": torch.tensor(2.0)})
    assert means.read() == {"a": 1.5, "b": 5.0}
    assert means.read() == {}


def test_averaging_is_over_processes() -> None:
    means = RunningMeans()
    means.average(lambda sums: sums)
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(3.0)})
    means.average(lambda sums: (sums + torch.tensor([5.0, 1.0])) / 2)
    assert means.read() == {"a": 3.0, "b": 2.0}


def test_sums_are_double_and_hold_no_graph() -> None:
    means = RunningMeans()
    means.add({"a": torch.ones((), requires_grad=True) * 2})
    assert means.sums["a"].dtype == torch.float64
    assert not means.sums["a"].requires_grad
