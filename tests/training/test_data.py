import itertools

import pytest
import torch

from di4c_plugin.training.data import BatchStream, MicroBatch
from tests.training import toy


@pytest.mark.parametrize(("size", "batch"), [(12, 2), (12, 4), (7, 3), (5, 1), (3, 8), (1, 4)])
@pytest.mark.parametrize("world_size", [1, 2])
def test_all_processes_together_see_each_example_once_a_pass(
    size: int, batch: int, world_size: int
) -> None:
    streams = [
        BatchStream(toy.data(size), batch, seed=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    steps = range(3 * size)
    seen = torch.cat([stream.indices(step) for step in steps for stream in streams])
    passes = seen[: len(seen) // size * size].view(-1, size)
    assert torch.equal(passes.sort(1).values, torch.arange(size).expand(len(passes), -1))


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(BatchStream(toy.data(50), 50, seed=seed).indices(step).tolist())
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_a_stream_that_starts_later_goes_on_as_the_first_would() -> None:
    def take(start: int, count: int) -> list[MicroBatch]:
        stream = BatchStream(toy.data(), 3, seed=5, rank=1, world_size=2, start=start)
        return list(itertools.islice(stream, count))

    for one, other in zip(take(0, 9)[4:], take(4, 5), strict=True):
        assert one.step == other.step
        assert torch.equal(one.batch.x_0, other.batch.x_0)


def test_labels_stay_with_their_examples() -> None:
    data = toy.data()
    batch = BatchStream(data, 4, seed=0).batch(3)
    index = BatchStream(data, 4, seed=0).indices(3)
    assert data.labels is not None
    assert batch.cond is not None
    assert torch.equal(batch.x_0, data.x_0[index])
    assert torch.equal(batch.cond, data.labels[index])
