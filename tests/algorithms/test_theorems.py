"""Theorems 1 and 2 of Di4C (arXiv 2410.08709) on spaces small enough to enumerate."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform, time_grid
from di4c_plugin.losses.mixture import token_log_prob
from tests.enumeration import (
    TableDenoiser,
    relative_entropy,
    states,
    step_kernels,
    total_variation,
)
from tests.losses.joint import joint_log_prob

TWO_BITS = Absorbing(2)
MASK = TWO_BITS.mask
# x is (0, 0) or (1, 1), as a law over the 9 states with masks.
EQUAL_BITS = torch.tensor([0.5, 0, 0, 0, 0.5, 0, 0, 0, 0], dtype=torch.float64)


def exact_marginals() -> Tensor:
    """log p_{0|t} of two equal fair bits, for all x_t: (1, 9, 2, 2). It does not depend on t."""
    x_t = states(3, 2)
    p = torch.full((9, 2, 2), 0.5, dtype=torch.float64)
    for row, x in enumerate(x_t):
        for d in range(2):
            known = [int(token) for token in (x[d], x[1 - d]) if token != MASK]
            if known:
                p[row, d] = torch.eye(2)[known[0]]
    return p.log().clamp(min=-1e6)[None]


def two_bits_in(steps: int) -> Tensor:
    """The law of the N-step product sampler with exact marginals, over the 9 states."""
    law = torch.eye(9, dtype=torch.float64)[-1]
    for t, s in pairwise(time_grid(steps).tolist()):
        law = law @ step_kernels(TWO_BITS, exact_marginals(), t, s)[0]
    return law


@pytest.mark.parametrize("steps", range(1, 65))
def test_theorem_1_n_steps_of_a_product_model_are_1_in_2n_away(steps: int) -> None:
    distance = total_variation(two_bits_in(steps), EQUAL_BITS).item()
    assert distance == pytest.approx(1 / (2 * steps), abs=1e-12)


def test_one_step_of_a_mixture_of_two_is_exact() -> None:
    """Proposition 1: each lambda decides both bits."""
    log_p = torch.full((2, 9, 2, 2), -1e6, dtype=torch.float64)
    log_p[0, ..., 0] = log_p[1, ..., 1] = 0
    one_step = step_kernels(TWO_BITS, log_p, 1.0, 0.0).mean(0)[-1]
    assert torch.equal(one_step, EQUAL_BITS)


def mixture_law(student: TableDenoiser, t: float) -> Tensor:
    """p^theta_{0|t}(x_0 | x_t) for every x_t and x_0, by the package's joint: (M, S^D)."""
    log_p, size = student.table(t), student.process.num_tokens
    x_0 = states(size, student.positions).unsqueeze(1).expand(-1, log_p.shape[1], -1)
    return joint_log_prob(token_log_prob(log_p, x_0)).exp().T


def to_data(kernel: Tensor, process: Process, positions: int) -> Tensor:
    """Drop the columns of a kernel to time 0 that hold a mask, which it cannot reach."""
    clean = (states(process.num_states, positions) < process.num_tokens).all(-1)
    assert kernel[:, ~clean].abs().sum() < 1e-12
    return kernel[:, clean]


def prior_law(process: Process, positions: int) -> Tensor:
    """The law of x_1: all masked, or uniform."""
    size = process.num_states**positions
    if isinstance(process, Absorbing):
        return torch.eye(size, dtype=torch.float64)[-1]
    return torch.full((size,), 1 / size, dtype=torch.float64)


@pytest.mark.parametrize("process", [Absorbing(2), Uniform(3)], ids=["absorbing", "uniform"])
@pytest.mark.parametrize("scale", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(10))
def test_theorem_2_losses_bound_the_distance_of_student_and_teacher(
    process: Process, seed: int, scale: float
) -> None:
    r"""TV(n-step teacher, 1-step student) <= (sqrt L_distil + \sum_k sqrt L_consis,k) / sqrt 2.

    At t_n = 1 > ... > t_1 = delta > 0, with x_{t_k} from the teacher's chain:
    L_distil = E KL(p^psi_{0|delta} || p^theta_{0|delta}) and
    L_consis,k = E KL(p^theta_{0|t_k} o p^psi_{t_k|t_{k+1}} || p^theta_{0|t_{k+1}}).
    """
    positions, steps = 2, 4
    teacher = TableDenoiser(process, positions, seed=seed, scale=scale)
    student = TableDenoiser(process, positions, 3, seed=seed + 1000, scale=scale)
    start = prior_law(process, positions)
    times = time_grid(steps).tolist()
    law, bound = start, torch.tensor(0.0, dtype=torch.float64)
    for t, u in pairwise(times[:-1]):
        step = teacher.kernels(t, u)[0]
        consistency = relative_entropy(step @ mixture_law(student, u), mixture_law(student, t))
        bound = bound + (law @ consistency).sqrt()
        law = law @ step
    delta = times[-2]
    last = to_data(teacher.kernels(delta, 0.0)[0], process, positions)
    bound = bound + (law @ relative_entropy(last, mixture_law(student, delta))).sqrt()
    distance = total_variation(law @ last, start @ mixture_law(student, 1.0))
    assert 0 < distance <= bound / 2**0.5 < 1
