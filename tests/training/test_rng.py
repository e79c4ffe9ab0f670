import itertools

import numpy as np
import pytest
import torch

from di4c_plugin.training.rng import (
    epoch_generator,
    seed_globals,
    seeded_dropout,
    step_generator,
)


def draw(generator: torch.Generator) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator, device=generator.device).tolist())


def test_every_seed_rank_and_step_has_its_own_draws() -> None:
    keys = itertools.product((0, 1, 2**40), (0, 1, 2), (0, 1, 2, 10**6))
    draws = [draw(step_generator(*key)) for key in keys]
    draws += [draw(epoch_generator(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_same_key_gives_the_same_draws_on_its_device(device: str) -> None:
    generator = step_generator(3, 1, 2, device)
    assert generator.device.type == device
    assert draw(generator) == draw(step_generator(3, 1, 2, device))


def test_near_steps_are_independent() -> None:
    first = torch.tensor([draw(step_generator(0, 0, step))[0] for step in range(4000)])
    # Uniform, without correlation between neighbours: mean 1/2, and 1/4 for the product.
    assert first.mean() == pytest.approx(0.5, abs=0.02)
    assert (first[1:] * first[:-1]).mean() == pytest.approx(0.25, abs=0.02)


def test_the_global_generators_are_a_function_of_seed_and_key() -> None:
    def draws(*key: int) -> tuple[float, float]:
        seed_globals(0, *key)
        return float(torch.rand(())), float(np.random.rand())

    assert draws(1, 2) == draws(1, 2)
    assert draws(1, 2)[0] != draws(1, 3)[0]
    assert draws(1, 2)[1] != draws(1, 3)[1]


def test_dropout_is_a_function_of_the_micro_step() -> None:
    def draws(seed: int, rank: int, step: int) -> tuple[float, ...]:
        with seeded_dropout(seed, rank, step, torch.device("cpu")):
            return tuple(torch.rand(3).tolist())

    torch.manual_seed(1)
    state = torch.get_rng_state()
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({draws(*key) for key in keys}) == 4
    assert draws(0, 0, 1) == draws(0, 0, 1)
    assert torch.equal(torch.get_rng_state(), state)
