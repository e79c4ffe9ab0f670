from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.shards import (
    Part,
    Shard,
    cost,
    counted,
    drawn,
    parts,
    point_folder,
    shard_seed,
)


def test_shards_cover_the_samples_with_seeds_of_their_own() -> None:
    found = parts(23, 10, 7)
    assert [(p.start, p.count) for p in found] == [(0, 10), (10, 10), (20, 3)]
    assert found[0].seed == 7
    seeds = {shard_seed(seed, k) for seed in range(50) for k in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_is_kept_is_not_drawn_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def draw(part: Part) -> Shard:
        asked.append(part.index)
        return Shard(torch.full((part.count, 3), part.index), 0.5, 4.0, 9.0)

    whole = parts(23, 10, 7)
    drawn(whole[1::2], draw, tmp_path, length=3, num_tokens=3)
    found = drawn(whole, draw, tmp_path, length=3, num_tokens=3)
    assert asked == [1, 0, 2]
    assert torch.cat([s.tokens for s in found])[:, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 3
    assert (found[1].seconds, found[1].calls, found[1].peak_mb) == (0.5, 4.0, 9.0)


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ([[0, 1, 3]], [1, 1, 1]),
        ([[0, 1, -1]], [1, 1, 1]),
        ([[0, 1]], [1, 1, 1]),
        ([[0, 1, 2]] * 2, [1, 1, 1]),
        ([[0, 1, 2]], [1, 1, np.nan]),
        ([[0, 1, 2]], [-1, 1, 1]),
        ([[0, 1, 2]], ["1", "1", "1"]),
    ],
)
def test_what_is_no_shard_of_these_samples(tmp_path: Path, tokens: Any, cost: Any) -> None:
    own = [float(x) if not isinstance(x, str) else x for x in cost]
    np.savez(tmp_path / "00000.npz", tokens=np.array(tokens), cost=np.array(own))
    with pytest.raises(UserError, match="is a damaged shard of samples: remove it"):
        drawn(parts(1, 10, 7), None, tmp_path, length=3, num_tokens=3)  # type: ignore[arg-type]


def test_points_that_differ_lie_in_different_folders(tmp_path: Path) -> None:
    assert point_folder(tmp_path, {"a": 1, "b": 2}) == point_folder(tmp_path, {"b": 2, "a": 1})
    assert point_folder(tmp_path, {"a": 1}) != point_folder(tmp_path, {"a": 2})


def test_calls_are_counted_by_rows() -> None:
    network = nn.Linear(2, 2)
    with counted([network]) as rows:
        network(torch.zeros(5, 2))
        network(torch.zeros(3, 2))
    network(torch.zeros(4, 2))
    assert rows == [8]


def test_the_cost_of_a_sample() -> None:
    shards = [
        Shard(torch.zeros(4, 8, dtype=torch.long), 1.0, 8.0, 5.0),
        Shard(torch.zeros(2, 8, dtype=torch.long), 0.5, 4.0, 7.0),
    ]
    found = cost(shards, "cpu")
    assert found["network_calls"] == 2
    assert found["ms_per_sample"] == pytest.approx(250)
    assert found["tokens_per_second"] == pytest.approx(32)
    assert found["peak_memory_mb"] == 7
