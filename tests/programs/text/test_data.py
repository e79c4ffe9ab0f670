from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from di4c_plugin.programs.text.data import (
    ResumedSampler,
    batch_size,
    drops_last,
    reordered,
    sampler_of,
)

Loader = DataLoader[Any]
NUMBERS: Any = range(23)


def order(
    epoch: int = 0, examples: int = 0, *, own: Any = None, seed: int = 5, **options: Any
) -> list[int]:
    place = SimpleNamespace(epoch=epoch, examples=examples)
    own = RandomSampler(NUMBERS) if own is None else own
    settings: dict[str, Any] = {"drop_last": False, "world_size": 1} | options
    return list(ResumedSampler(own, 3, seed=seed, position=place, **settings))


def shares(world_size: int) -> list[Any]:
    return [DistributedSampler(NUMBERS, world_size, rank, seed=1) for rank in range(world_size)]


def test_an_epoch_is_what_the_hosts_sampler_makes_of_it() -> None:
    epochs = [order(epoch) for epoch in range(4)]
    assert all(sorted(epoch) == list(NUMBERS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert order(own=SequentialSampler(NUMBERS)) == list(NUMBERS)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_follows_a_place_does_not_depend_on_the_start(world_size: int) -> None:
    for own in shares(world_size):
        whole = order(1, own=own, world_size=world_size)
        assert whole != order(0, own=own, world_size=world_size)
        for seen in range(len(whole)):
            rest = order(1, seen * world_size, own=own, world_size=world_size)
            assert rest == whole[seen:]


def test_processes_share_the_examples() -> None:
    parts = [order(own=own, world_size=2) for own in shares(2)]
    assert set(parts[0]) | set(parts[1]) == set(NUMBERS)
    assert [len(part) for part in parts] == [12, 12]


def test_the_seed_decides_and_nobody_else() -> None:
    state = torch.get_rng_state()
    first = order()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert order() == first
    assert order(seed=6) != first
    generator = torch.Generator()
    own = RandomSampler(NUMBERS, generator=generator)
    first = order(own=own)
    torch.rand(3, generator=generator)
    assert order(own=own) == first != order(seed=6, own=own)


@pytest.mark.parametrize(
    ("examples", "drop_last", "epoch"),
    [(22, False, 0), (23, False, 1), (20, True, 0), (21, True, 1), (23, True, 1)],
)
def test_where_nothing_is_left_the_next_epoch_begins(
    examples: int, drop_last: bool, epoch: int
) -> None:
    place = SimpleNamespace(epoch=0, examples=examples)
    own, options = RandomSampler(NUMBERS), {"drop_last": drop_last, "seed": 5, "world_size": 1}
    sampler = ResumedSampler(own, 3, position=place, **options)  # type: ignore[arg-type]
    want = order(epoch, 0 if epoch else examples)
    assert list(sampler) == want
    assert (place.epoch, place.examples) == (epoch, 0 if epoch else examples)
    assert len(sampler) == 23


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_hosts_loader_keeps_all_but_its_order(drop_last: bool) -> None:
    def collate(rows: list[int]) -> list[int]:
        return [-row for row in rows]

    loader: Loader = DataLoader(NUMBERS, batch_size=3, collate_fn=collate, drop_last=drop_last)
    place = SimpleNamespace(epoch=0, examples=0)
    own = RandomSampler(NUMBERS)
    sampler = ResumedSampler(own, 3, drop_last=drop_last, seed=5, world_size=1, position=place)
    made = reordered(loader, sampler)
    batches = list(made)
    assert len(made) == len(loader) == len(batches) == (7 if drop_last else 8)
    assert [-i for batch in batches for i in batch] == order()[: 21 if drop_last else 23]


def test_what_lightning_has_put_into_a_loader_is_found() -> None:
    inner = BatchSampler(SequentialSampler(NUMBERS), 4, drop_last=True)
    loader: Loader = DataLoader(NUMBERS, batch_sampler=inner)
    assert batch_size(loader) == 4
    assert drops_last(loader)
    assert sampler_of(loader) is inner.sampler
    plain: Loader = DataLoader(NUMBERS, batch_size=2, shuffle=True)
    assert (batch_size(plain), drops_last(plain)) == (2, False)
    assert isinstance(sampler_of(plain), RandomSampler)
