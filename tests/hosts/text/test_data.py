from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.data import ResumableSampler, batch_size, reordered

Loader = DataLoader[Any]


def order(
    position: int = 0, size: int = 23, rank: int = 0, world_size: int = 1, seed: int = 5
) -> list[int]:
    return list(
        ResumableSampler(
            size, 3, seed=seed, rank=rank, world_size=world_size, position=lambda: position
        )
    )


def test_an_epoch_has_every_example_once_but_for_a_part_of_a_batch() -> None:
    epoch = order()
    assert len(epoch) == len(set(epoch)) == 21
    assert set(epoch) <= set(range(23))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_examples(world_size: int) -> None:
    parts = [order(rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [i for part in parts for i in part]
    assert len(together) == len(set(together))
    assert {len(part) for part in parts} == {23 // world_size // 3 * 3}


def test_every_epoch_has_its_own_order_and_leaves_out_others() -> None:
    epochs = [order(7 * epoch) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert set.union(*map(set, epochs)) == set(range(23))


@pytest.mark.parametrize("world_size", [1, 2])
def test_what_follows_a_position_does_not_depend_on_the_start(world_size: int) -> None:
    """As batches: an unbroken run, which begins anew every epoch, and one begun anywhere."""
    for rank in range(world_size):
        per_epoch = len(order(rank=rank, world_size=world_size)) // 3
        run = [i for e in range(4) for i in order(e * per_epoch, rank=rank, world_size=world_size)]
        for position in range(2 * per_epoch):
            rest = order(position, rank=rank, world_size=world_size)
            assert rest == run[3 * position : 3 * position + len(rest)]


def test_the_seed_decides() -> None:
    assert order() == order()
    assert order() != order(seed=6)


def test_the_position_is_asked_for_when_an_epoch_begins() -> None:
    trained = 0
    sampler = ResumableSampler(7, 2, seed=0, rank=0, world_size=1, position=lambda: trained)
    numbers: Any = torch.arange(7)
    loader: Loader = DataLoader(numbers, batch_size=2, sampler=sampler, drop_last=True)
    first = torch.cat(list(loader))
    assert torch.equal(torch.cat(list(loader)), first)
    trained = 3
    assert not torch.equal(torch.cat(list(loader)), first)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(UserError, match="fewer training examples than one batch needs"):
        order(size=5, world_size=2)


def test_the_hosts_loader_keeps_all_but_its_order() -> None:
    def collate(rows: list[int]) -> list[int]:
        return [-row for row in rows]

    numbers: Any = range(7)
    loader: Loader = DataLoader(numbers, batch_size=2, collate_fn=collate)
    sampler = ResumableSampler(7, 2, seed=0, rank=0, world_size=1, position=lambda: 0)
    batches = list(reordered(loader, sampler))
    assert len(batches) == 3
    assert batches == [[-i, -j] for i, j in zip(*[iter(sampler)] * 2, strict=True)]
    assert batch_size(loader) == 2


def test_the_batch_size_is_found_where_lightning_has_put_its_sampler() -> None:
    numbers: Any = range(7)
    inner = BatchSampler(SequentialSampler(numbers), 4, drop_last=False)
    assert batch_size(DataLoader(numbers, batch_sampler=inner)) == 4
