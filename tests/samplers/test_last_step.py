"""The last step: exact laws of one draw, and of the likeliest among several lambdas."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import ancestral
from di4c_plugin.samplers.base import with_latent
from di4c_plugin.samplers.last_step import likeliest
from tests.enumeration import TableDenoiser, assert_drawn_from, product_law, rank, states

D, S, N, DRAWS = 2, 2, 3, 30_000
T = 0.01
PROCESS = Uniform(S)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def denoise(
    model: Any,
    x_t: Tensor,
    t: Tensor,
    *,
    generator: torch.Generator,
    latents: str = "fixed",
    last_latents: int = 1,
    mode: str = "argmax",
) -> Tensor:
    """x_0 from x_t in one step."""
    drawing = with_latent(model, latents, generator)
    return likeliest(drawing, x_t, t, last_latents, generator, mode=mode)


def start(row: int, n: int = DRAWS) -> tuple[Tensor, Tensor]:
    """n copies of one state, at T."""
    return states(S, D)[row].repeat(n, 1), torch.full((n,), T, dtype=torch.float64)


def likeliest_law(log_p: Tensor, count: int, first: int | None = None) -> Tensor:
    """The law of the best of `count` candidates, from log_p (N, D, S), over all their outcomes.

    The first candidate's lambda may be given.
    """
    probability, score = product_law(log_p).flatten(), product_law(log_p).flatten().tolist()
    law = torch.zeros(S**D, dtype=torch.float64)
    for candidates in product(range(N * S**D), repeat=count):
        best = max(candidates, key=score.__getitem__)
        if first is None or candidates[0] // S**D == first:
            law[best % S**D] += (probability[list(candidates)] / N).prod()
    return law if first is None else law * N


def test_draws_follow_the_mixture(generator: torch.Generator) -> None:
    student = TableDenoiser(PROCESS, D, N)
    x_t, t = start(1)
    x_0 = denoise(student, x_t, t, generator=generator, mode="draw")
    assert_drawn_from(rank(x_0, S), product_law(student.table(T)[:, 1]).mean(0))


def test_argmax_of_a_teacher_is_its_mode(generator: torch.Generator) -> None:
    teacher = TableDenoiser(PROCESS, D)
    x_t, t = states(S, D), torch.full((4,), T, dtype=torch.float64)
    x_0 = denoise(teacher, x_t, t, generator=generator)
    assert torch.equal(rank(x_0, S), product_law(teacher.table(T)[0]).argmax(-1))


def test_argmax_of_a_student_is_the_mode_of_its_lambda(generator: torch.Generator) -> None:
    student = TableDenoiser(PROCESS, D, N)
    x_t, t = start(2)
    modes = product_law(student.table(T)[:, 2]).argmax(-1)
    x_0 = denoise(student, x_t, t, generator=generator)
    assert_drawn_from(rank(x_0, S), torch.bincount(modes, minlength=S**D).double() / N)


@pytest.mark.parametrize("count", [2, 3])
def test_the_likeliest_of_several_draws_is_kept(count: int, generator: torch.Generator) -> None:
    student = TableDenoiser(PROCESS, D, N)
    x_t, t = start(0)
    x_0 = denoise(student, x_t, t, generator=generator, mode="draw", last_latents=count)
    assert_drawn_from(rank(x_0, S), likeliest_law(student.table(T)[:, 0], count))


def test_a_product_model_has_one_candidate(generator: torch.Generator) -> None:
    """The likeliest of several draws would be another law, of less entropy."""
    teacher = TableDenoiser(PROCESS, D)
    x_t, t = start(1)
    x_0 = denoise(teacher, x_t, t, generator=generator, mode="draw", last_latents=3)
    assert_drawn_from(rank(x_0, S), product_law(teacher.table(T)[0, 1]))


def test_many_latents_find_the_likeliest_mode(generator: torch.Generator) -> None:
    student = TableDenoiser(PROCESS, D, N)
    laws = product_law(student.table(T)[:, 3])
    x_t, t = start(3, n=50)
    x_0 = denoise(student, x_t, t, generator=generator, last_latents=60)
    assert (rank(x_0, S) == laws.max(0).values.argmax()).all()


def ends(generator: torch.Generator, student: TableDenoiser, latents: str) -> Tensor:
    """Draws in two steps, of which the last one has two candidates."""
    x_1 = states(S, D).repeat(DRAWS // 4, 1)
    options: dict[str, Any] = {"process": PROCESS, "latents": latents, "last_latents": 2}
    return ancestral(student, x_1, time_grid(2), generator=generator, **options)


def test_ancestral_tries_several_latents_at_the_end_only(generator: torch.Generator) -> None:
    student = TableDenoiser(PROCESS, D, N)
    half_way = torch.full((4,), 0.25, dtype=torch.float64) @ student.kernels(1.0, 0.5).mean(0)
    last = torch.stack([likeliest_law(student.table(0.5)[:, row], 2) for row in range(4)])
    assert_drawn_from(rank(ends(generator, student, "fresh"), S), half_way @ last)


def test_of_a_fixed_lambda_the_candidates_are_that_one_and_others(
    generator: torch.Generator,
) -> None:
    student = TableDenoiser(PROCESS, D, N)
    law = torch.zeros(4, dtype=torch.float64)
    for j, kernel in enumerate(student.kernels(1.0, 0.5)):
        tables = student.table(0.5)
        last = torch.stack([likeliest_law(tables[:, row], 2, first=j) for row in range(4)])
        law += torch.full((4,), 0.25 / N, dtype=torch.float64) @ kernel @ last
    assert_drawn_from(rank(ends(generator, student, "fixed"), S), law)


def test_revealed_tokens_stay(generator: torch.Generator) -> None:
    process = Absorbing(S)
    x_t = torch.tensor([[0, 2], [2, 1], [1, 0]])
    t = torch.full((3,), T, dtype=torch.float64)
    student = TableDenoiser(process, D, N)
    x_0 = denoise(student, x_t, t, generator=generator, last_latents=3, mode="draw")
    assert torch.equal(x_0.where(x_t < S, S), x_t)
    assert x_0.max() < S


@pytest.mark.parametrize("options", [{"mode": "best"}, {"latents": "sticky"}])
def test_unknown_choices_are_refused(options: dict[str, Any], generator: torch.Generator) -> None:
    x_t, t = start(0, n=2)
    with pytest.raises(UserError, match="there are"):
        denoise(TableDenoiser(PROCESS, D, N), x_t, t, generator=generator, **options)


@pytest.mark.parametrize("count", [0, -1])
def test_no_latents_at_all_are_refused(count: int, generator: torch.Generator) -> None:
    x_t, t = start(0, n=2)
    with pytest.raises(UserError, match="last_latents"):
        denoise(TableDenoiser(PROCESS, D, N), x_t, t, generator=generator, last_latents=count)
