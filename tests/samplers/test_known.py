"""Sampling given some tokens, against the exact conditional law of the chain."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.samplers import ancestral, hybrid
from di4c_plugin.samplers.known import Known, known_prefix
from tests.enumeration import TableDenoiser, assert_drawn_from, product_law, rank, states

D = 3
PROCESSES = {
    "absorbing": Absorbing(2),
    "token": Absorbing(3, mask=1),
    "uniform": Uniform(2),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
# Position 1 is known to be token 0.
X_0, KNOWN = torch.tensor([[0, 0, 0]]), torch.tensor([[False, True, False]])


class Masked(TableDenoiser):
    """A table whose mask, where it is a token, is never predicted."""

    def __init__(self, process: Process, components: int, seed: int = 0) -> None:
        super().__init__(process, D, components, seed=seed)
        self.logits = process.restrict(self.logits)


def conditional_law(denoiser: TableDenoiser, steps: int) -> Tensor:
    """Of x_0: the chain of the unknown positions, with the known token where it is."""
    process = denoiser.process
    x = states(process.num_states, D)
    start = x == process.mask if isinstance(process, Absorbing) else torch.ones_like(x).bool()
    law = (start | KNOWN).all(-1) & (x[:, 1] == 0)
    law = law.double() / law.sum()
    for t, s in pairwise(time_grid(steps).tolist()):
        t_s = [torch.full((len(x),), time, dtype=torch.float64) for time in (t, s)]
        kernel = []
        for log_p_0 in denoiser.table(t):
            p_s = process.log_posterior(log_p_0, x, *t_s).exp()
            p_s[:, 1] = torch.eye(process.num_states, dtype=torch.float64)[0]
            kernel.append(product_law(p_s.log()))
        law = law @ torch.stack(kernel).mean(0)
    return law


def sample(
    denoiser: Any, process: Process, *, steps: int, n: int = 20_000, **options: Any
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = process.prior((n, D), generator=generator, device=torch.device("cpu"))
    draw = hybrid if "teacher" in options else ancestral
    return draw(denoiser, x, time_grid(steps), process=process, generator=generator, **options)


@every_process
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("components", [1, 2])
def test_samples_follow_the_conditional_law(process: Process, steps: int, components: int) -> None:
    denoiser = Masked(process, components)
    law = conditional_law(denoiser, steps)
    x = sample(Known(denoiser, X_0, KNOWN), process, steps=steps, latents="fresh")
    law[law < 1e-9] = 0
    assert_drawn_from(rank(x, process.num_states), law)


@every_process
@pytest.mark.parametrize(
    "options", [{}, {"last_latents": 2}, {"latents": "fresh"}, {"teacher_steps": 2}]
)
def test_known_tokens_never_change_and_are_always_shown(
    process: Process, options: dict[str, Any]
) -> None:
    shown: list[Tensor] = []

    class Spy(Masked):
        def __call__(self, x_t: Tensor, t: Tensor, **others: Any) -> Tensor:
            shown.append(x_t)
            return super().__call__(x_t, t, **others)

    x_0 = torch.where(torch.arange(D) % 2 == 0, 0, process.num_tokens - 1).expand(50, -1)
    known = torch.rand(50, D, generator=torch.Generator().manual_seed(2)) < 0.5
    if "teacher_steps" in options:
        options = options | {"teacher": Known(Spy(process, 1, seed=1), x_0, known)}
    denoiser = Known(Spy(process, 2), x_0, known)
    x = sample(denoiser, process, steps=4, n=50, **options)
    assert all(torch.equal(seen[known], x_0[known]) for seen in [*shown, x])
    assert (x[~known] != x_0[~known]).any()


def test_a_product_model_and_a_student_stay_what_they_are() -> None:
    process = Absorbing(2)
    assert Known(Masked(process, 1), X_0, KNOWN).latent_shape is None
    assert Known(Masked(process, 2), X_0, KNOWN).latent_shape == (1,)


def test_what_leaves_nothing_to_sample_or_does_not_fit_is_refused() -> None:
    denoiser = Masked(Absorbing(2), 1)
    with pytest.raises(UserError, match="nothing is left to sample"):
        Known(denoiser, X_0, torch.ones(1, D).bool())
    with pytest.raises(UserError, match=r"must both be \(B, D\), not \(1, 3\) and \(3,\)"):
        Known(denoiser, X_0, KNOWN[0])


@pytest.mark.parametrize("rows", [1, 2])
def test_a_prefix_is_known_and_the_rest_is_not(rows: int) -> None:
    prefix = torch.tensor([[4, 5], [6, 7]][:rows])
    x_0, known = known_prefix(prefix if rows > 1 else prefix[0], 4)
    assert known.tolist() == [[True, True, False, False]] * rows
    assert x_0[:, :2].tolist() == prefix.tolist()


@pytest.mark.parametrize("length", [0, 4, 5])
def test_a_prefix_leaves_something_to_sample(length: int) -> None:
    with pytest.raises(UserError, match=f"a prefix of {length} tokens does not fit 4 positions"):
        known_prefix(torch.zeros(length, dtype=torch.int64), 4)
