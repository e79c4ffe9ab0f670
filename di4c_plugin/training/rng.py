"""Random generators that are functions of what they are for, so that a resumed run repeats nothing.

No generator state is carried from step to step: whoever knows seed, rank and step knows the draws.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

STEP, EPOCH, DROPOUT = 0, 1, 2


def keyed_generator(seed: int, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for (seed, key); different keys give independent streams.

    `np.random.SeedSequence` mixes the numbers so that near seeds and keys are as good as far ones.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]))


def step_generator(
    seed: int, rank: int, step: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the source of every draw (latents, times, masks) of micro-step `step` on `rank`."""
    return keyed_generator(seed, STEP, rank, step, device=device)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the source of the order in which pass `epoch` over the data visits the examples."""
    return keyed_generator(seed, EPOCH, epoch)


@contextmanager
def seeded_dropout(seed: int, rank: int, step: int, device: torch.device) -> Iterator[None]:
    """Have a host's dropout, drawn from torch's own generators, be a function of the micro-step.

    Afterwards these generators are what they were.
    """
    state = np.random.SeedSequence(seed, spawn_key=(DROPOUT, rank, step)).generate_state(1)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(state[0]))
        yield


def seed_globals(seed: int, *key: int) -> None:
    """Seed the generators of torch and numpy that other people's code draws from.

    Dropout is drawn from torch's; from the state of a step, a resumed run repeats it.
    """
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(2)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))
