import pytest
import torch

from di4c_plugin.algorithms.noising import NO_LABEL, drop_labels, low_discrepancy_times


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_cell_of_time_has_one_value(count: int) -> None:
    t = low_discrepancy_times(count, 0.2, generator())
    assert t.dtype == torch.float64
    assert ((t - 0.2) / 0.8 * count).floor().tolist() == list(range(count))


def test_times_are_uniform_within_their_cell() -> None:
    g = generator()
    t = torch.stack([low_discrepancy_times(2, 0.0, g) for _ in range(4000)])
    assert torch.allclose(t.mean(0), torch.tensor([0.25, 0.75]).double(), atol=0.01)
    assert torch.allclose(t.var(0), torch.full((2,), 0.25 / 12).double(), rtol=0.1)


def test_the_share_of_labels_is_dropped_and_the_others_stay() -> None:
    labels = torch.arange(10_000) % 10
    kept = drop_labels(labels, 0.3, generator())
    assert kept is not None
    dropped = kept == NO_LABEL
    assert torch.equal(kept[~dropped], labels[~dropped])
    assert dropped.double().mean() == pytest.approx(0.3, abs=0.02)


def test_without_labels_there_are_none_to_drop() -> None:
    assert drop_labels(None, 0.3, generator()) is None
