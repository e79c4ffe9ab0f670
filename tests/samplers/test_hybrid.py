"""The student's chain, then the teacher's: exact laws over all states of two positions."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import Step, ancestral, hybrid
from tests.enumeration import TableDenoiser, assert_drawn_from, rank, states

D = 2
every_process = pytest.mark.parametrize(
    "process", [Absorbing(2), Uniform(3)], ids=["mask", "uniform"]
)


def networks(process: Process) -> tuple[TableDenoiser, TableDenoiser]:
    """A student with three lambdas, and a teacher."""
    return TableDenoiser(process, D, 3, seed=1), TableDenoiser(process, D, seed=2)


def start(process: Process, n: int = 30_000) -> Tensor:
    """x_1 without randomness: every state of the prior equally often."""
    x = states(process.num_states, D)
    if isinstance(process, Absorbing):
        x = x[-1:]
    return x.repeat(n // len(x), 1)


def sample(process: Process, steps: int, teacher_steps: int, **options: Any) -> Tensor:
    student, teacher = networks(process)
    return hybrid(
        student,
        start(process),
        time_grid(steps),
        teacher=teacher,
        teacher_steps=teacher_steps,
        process=process,
        generator=torch.Generator().manual_seed(0),
        **options,
    )


@every_process
@pytest.mark.parametrize(
    ("steps", "teacher_steps"), [(1, 0), (1, 1), (2, 1), (3, 1), (3, 2), (3, 3)]
)
@pytest.mark.parametrize("latents", ["fixed", "fresh"])
def test_samples_follow_both_chains(
    process: Process, steps: int, teacher_steps: int, latents: str
) -> None:
    times = time_grid(steps).tolist()
    student, teacher = networks(process)
    x_1 = rank(start(process), process.num_states)
    law = torch.bincount(x_1, minlength=process.num_states**D).double() / len(x_1)
    laws = law.expand(student.components, 1, -1)  # one for each lambda, of which each goes its way
    for index, (t, s) in enumerate(pairwise(times)):
        denoiser = student if index < steps - teacher_steps else teacher
        kernels = denoiser.kernels(t, s)
        laws = laws @ (kernels if latents == "fixed" else kernels.mean(0))
    x = sample(process, steps, teacher_steps, latents=latents)
    assert_drawn_from(rank(x, process.num_states), laws.mean(0)[0])


@pytest.mark.parametrize("teacher_steps", [0, 3])
def test_one_network_alone_is_ancestral_sampling(teacher_steps: int) -> None:
    process = Uniform(3)
    alone = ancestral(
        networks(process)[1 if teacher_steps else 0],
        start(process),
        time_grid(3),
        process=process,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(sample(process, 3, teacher_steps), alone)


@pytest.mark.parametrize("teacher_steps", [0, 1, 3])
def test_the_callback_counts_through(teacher_steps: int) -> None:
    steps: list[Step] = []
    x = sample(Absorbing(2), 3, teacher_steps, callback=steps.append)
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.s for step in steps] == time_grid(3)[1:].tolist()
    assert torch.equal(steps[-1].x, x)


@pytest.mark.parametrize("teacher_steps", [-1, 3])
def test_more_teacher_steps_than_steps_are_refused(teacher_steps: int) -> None:
    with pytest.raises(UserError, match=f"teacher_steps={teacher_steps} does not fit 2 steps"):
        sample(Absorbing(2), 2, teacher_steps)
