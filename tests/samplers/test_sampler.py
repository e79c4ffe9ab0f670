"""What every sampler has: guidance, grids, last steps, against the plain pieces; the contract."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.plugins import lookup
from di4c_plugin.samplers import Guided, Step, ancestral, hybrid, sampler_options
from di4c_plugin.samplers.base import with_latent
from di4c_plugin.samplers.grids import ending_at
from di4c_plugin.samplers.last_step import likeliest
from tests.enumeration import TableDenoiser, assert_drawn_from, rank, states
from tests.samplers.test_guidance import Labelled

D = 2
every_process = pytest.mark.parametrize(
    "process", [Absorbing(2), Uniform(3)], ids=["mask", "uniform"]
)


def draw(sampler: Any, denoiser: Any, process: Process, steps: int, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    n = options.pop("n", 200)
    x = process.prior((n, D), generator=generator, device=torch.device("cpu"))
    return sampler(denoiser, x, time_grid(steps), process=process, generator=generator, **options)


@every_process
@pytest.mark.parametrize("last", [None, "draw"])
def test_di4c_draws_a_new_latent_at_every_step(process: Process, last: str | None) -> None:
    student = TableDenoiser(process, D, 3)
    options = {"last": last, "last_latents": 1}
    found = draw(lookup("sampler", "di4c"), student, process, 3, **options)
    fresh, fixed = (
        draw(lookup("sampler", "ancestral"), student, process, 3, latents=policy, **options)
        for policy in ("fresh", "fixed")
    )
    assert torch.equal(found, fresh)
    assert not torch.equal(found, fixed)


@every_process
def test_guidance_is_the_guided_denoiser(process: Process) -> None:
    model, cond = Labelled(process, 2), torch.arange(200) % 2
    guided = Guided(model, 3.0, times=time_grid(3))
    found = draw(ancestral, model, process, 3, cond=cond, guidance=3.0)
    assert torch.equal(found, draw(ancestral, guided, process, 3, cond=cond))
    assert not torch.equal(found, draw(ancestral, model, process, 3, cond=cond))
    other = draw(ancestral, model, process, 3, cond=cond, guidance=3.0, guidance_ramp="constant")
    assert not torch.equal(found, other)


@every_process
def test_a_hybrid_guides_on_through_the_steps(process: Process) -> None:
    student, teacher, times = Labelled(process, 2), Labelled(process, seed=5), time_grid(4)
    cond = torch.arange(200) % 2
    none = Labelled(process, seed=9)
    options = {"cond": cond, "teacher_steps": 2}
    found = draw(
        hybrid,
        student,
        process,
        4,
        guidance=2.0,
        guidance_teacher=none,
        teacher=teacher,
        **options,
    )
    pieces = Guided(student, 2.0, times=times, unconditional=none)
    last = Guided(teacher, 2.0, times=times)
    assert torch.equal(found, draw(hybrid, pieces, process, 4, teacher=last, **options))


# The last step


def ending(steps: int, min_time: float, end: float = 0.0) -> Tensor:
    return ending_at(time_grid(steps, end), D, Uniform(3), min_time=min_time)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("min_time", [0.0, 0.01, 0.4])
def test_grids_end_as_tauldrs(steps: int, min_time: float) -> None:
    found = ending(steps, min_time)
    want = torch.linspace(1, min_time, steps, dtype=torch.float64)
    if min_time == 0:
        want = time_grid(steps)[:-1]
    torch.testing.assert_close(found, torch.cat([want, torch.zeros(1).double()]))
    assert found[0] == 1


@pytest.mark.parametrize("min_time", [-0.1, 1.0])
def test_impossible_ends_are_refused(min_time: float) -> None:
    with pytest.raises(UserError, match="min_time must be in"):
        ending(3, min_time)
    with pytest.raises(UserError, match="of a grid from 1 to 0.5"):
        ending(3, 0.1, 0.5)


@every_process
@pytest.mark.parametrize("mode", ["draw", "argmax"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_is_the_likeliest(process: Process, mode: str, steps: int) -> None:
    student, times = TableDenoiser(process, D, 3), ending(steps, 0.1)
    end: dict[str, Any] = {"min_time": 0.1, "last": mode, "last_latents": 2, "latents": "fresh"}
    found = draw(ancestral, student, process, steps, **end)
    generator = torch.Generator().manual_seed(0)
    x = process.prior((200, D), generator=generator, device=torch.device("cpu"))
    options: dict[str, Any] = {"process": process, "generator": generator, "latents": "fresh"}
    x = ancestral(student, x, times[:-1], **options)
    drawing, t = with_latent(student, "fresh", generator), times[-2].expand(200)
    assert torch.equal(found, likeliest(drawing, x, t, 2, generator, mode=mode))


@every_process
@pytest.mark.parametrize("teacher_steps", [None, 0, 1])
def test_a_fixed_lambda_is_kept_to_the_last_step(
    process: Process, teacher_steps: int | None
) -> None:
    seen: list[Tensor | None] = []

    class Spy(TableDenoiser):
        def __call__(self, *args: Any, **options: Any) -> Tensor:
            seen.append(options["latent"])
            return super().__call__(*args, **options)

    sampler: Any = ancestral
    options: dict[str, Any] = {"last": "draw", "min_time": 0.1}
    if teacher_steps is not None:
        teacher = Spy(process, D, 3, seed=1)  # a student too: Di4C applied twice
        options |= {"teacher": teacher, "teacher_steps": teacher_steps}
        sampler = hybrid
    draw(sampler, Spy(process, D, 3), process, 3, n=20, **options)
    *first, last = [latent for latent in seen if latent is not None]
    assert len(first) == 2
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], last) is (teacher_steps != 1)


@every_process
@pytest.mark.parametrize("teacher_steps", [0, 1, 3])
def test_a_hybrid_ends_by_whose_turn_it_is(process: Process, teacher_steps: int) -> None:
    """The argmax of the teacher where it takes the last step: the exact law of both chains."""
    student, teacher = TableDenoiser(process, D, seed=1), TableDenoiser(process, D, seed=2)
    x = states(process.num_states, D)
    law = torch.ones(len(x)).double() / len(x)
    if isinstance(process, Absorbing):
        law = (x == process.mask).all(-1).double()
    times = time_grid(3).tolist()
    models = [student] * (3 - teacher_steps) + [teacher] * teacher_steps
    for model, t, s in zip(models[:-1], times[:2], times[1:3], strict=True):
        law = law @ model.kernels(t, s)[0]
    end = torch.zeros_like(law).scatter_add(
        0, rank(models[-1].table(times[2])[0].argmax(-1), process.num_states), law
    )
    found = draw(
        hybrid,
        student,
        process,
        3,
        n=20_000,
        teacher=teacher,
        teacher_steps=teacher_steps,
        last="argmax",
    )
    assert_drawn_from(rank(found, process.num_states), end)


def test_the_callback_counts_through() -> None:
    steps: list[Step] = []
    process = Uniform(3)
    x = draw(
        ancestral,
        TableDenoiser(process, D),
        process,
        3,
        last="argmax",
        min_time=0.2,
        callback=steps.append,
    )
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.s for step in steps] == pytest.approx([0.6, 0.2, 0])
    assert torch.equal(steps[-1].x, x)


def test_mistakes_are_told() -> None:
    process = Uniform(3)
    table = TableDenoiser(process, D)
    with pytest.raises(UserError, match="unknown last step 'best'"):
        draw(ancestral, table, process, 2, last="best")
    with pytest.raises(UserError, match="^teacher_steps=4 does not fit 3 steps"):
        draw(hybrid, table, process, 3, teacher=table, teacher_steps=4, last="draw")
    x, grid = states(3, D), time_grid(2, 0.5)
    options: dict[str, Any] = {"process": process, "generator": torch.Generator(), "last": "draw"}
    with pytest.raises(UserError, match="the grid ends at 0.5"):
        ancestral(table, x, grid, **options)


def test_options_are_known_to_be_taken() -> None:
    sampler_options("ancestral", {"guidance": 2.0, "last": "argmax"})
    signature = inspect.signature(hybrid)
    assert list(signature.parameters)[:3] == ["denoiser", "x", "times"]
    assert {"teacher", "guidance", "min_time", "last_latents"} <= signature.parameters.keys()
    with pytest.raises(UserError, match="'speed'"):
        sampler_options("hybrid", {"teacher": 1, "teacher_steps": 1, "speed": 2})
    with pytest.raises(UserError, match="missing .*'teacher'"):
        sampler_options("hybrid", {"teacher_steps": 1})
