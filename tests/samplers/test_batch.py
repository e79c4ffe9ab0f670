"""A batch of samples with tokens given, as Python and the hosts draw it."""

from typing import Any

import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, time_grid
from di4c_plugin.samplers import hybrid, maskgit
from di4c_plugin.samplers.batch import draw_batch
from di4c_plugin.samplers.sampler import sampler
from tests.enumeration import TableDenoiser

PROCESS = Absorbing(4, mask=3)
SHAPE = (5, 3)
KNOWN = torch.tensor([[0, 2, 0]]), torch.tensor([[False, True, False]])


class Counted(TableDenoiser):
    """A table that keeps the states that it is asked about."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logits = PROCESS.restrict(self.logits)
        self.seen: list[Tensor] = []

    def __call__(self, x_t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen.append(x_t)
        return super().__call__(x_t, *args, **kwargs)


def draw(by: Any, denoiser: Any, steps: int, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    times = time_grid(steps)
    return draw_batch(by, denoiser, SHAPE, times, PROCESS, generator, given=KNOWN, **options)


def test_given_tokens_stay_and_all_others_are_drawn() -> None:
    denoiser = Counted(PROCESS, 3)
    x = draw(maskgit, denoiser, 2)
    assert x.shape == SHAPE
    assert (x[:, 1] == 2).all()
    assert (x != PROCESS.mask).all()
    # Two tokens are to be drawn in two steps: one is open after the first.
    assert [(state == PROCESS.mask).sum(1).tolist() for state in denoiser.seen] == [
        [2] * 5,
        [1] * 5,
    ]


def test_the_teacher_of_a_hybrid_knows_them_too() -> None:
    teacher, student = Counted(PROCESS, 3, seed=1), Counted(PROCESS, 3, 2)
    partners, options = {"teacher": teacher}, {"teacher_steps": 1}
    x = draw(hybrid, student, 3, partners=partners, options=options)
    assert (len(student.seen), len(teacher.seen)) == (2, 1)
    assert all((state[:, 1] == 2).all() for state in (*student.seen, *teacher.seen))
    assert (x[:, 1] == 2).all()


def test_each_batch_has_its_own_rows() -> None:
    tokens, where = (
        torch.arange(8).remainder(3)[:, None].expand(-1, 3),
        torch.tensor([[True, False, False]]),
    )
    generator = torch.Generator().manual_seed(0)
    given = tokens, where.expand(8, -1)

    @sampler()
    def filled(denoiser: Any, x: Tensor, times: Tensor, **options: Any) -> Tensor:
        """Fill all but the first with 0."""
        return x.where(x != PROCESS.mask, 0)

    times = time_grid(1)
    x = draw_batch(
        filled, Counted(PROCESS, 3), SHAPE, times, PROCESS, generator, given=given, rows=slice(3, 8)
    )
    assert x.tolist() == [[k % 3, 0, 0] for k in range(3, 8)]
