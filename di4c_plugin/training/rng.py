"""Random generators seeded by their purpose, so that a resumed run draws as an unbroken one does.

No generator state is carried from step to step: seed, rank and step determine the draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

STEP, EPOCH, DROPOUT = 0, 1, 2


def keyed_generator(seed: int, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for (seed, key); different keys give independent streams.

    `np.random.SeedSequence` mixes the numbers well, also for neighbouring seeds and keys.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


def step_generator(
    seed: int, rank: int, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the generator of all draws (latents, times, masks) of micro-step `step` on `rank`."""
    return keyed_generator(seed, STEP, rank, step, device=device)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator that shuffles the examples of `epoch`."""
    return keyed_generator(seed, EPOCH, epoch)


@contextmanager
def seeded_dropout(seed: int, rank: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout uses, by the micro-step; then restore them."""
    state = np.random.SeedSequence(seed, spawn_key=(DROPOUT, rank, step)).generate_state(1)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(state[0]))
        yield


def seed_globals(seed: int, *key: int) -> None:
    """Seed the global generators of torch and numpy, which a host's code and dropout use."""
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(2)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))
