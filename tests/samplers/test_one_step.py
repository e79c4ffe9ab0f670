"""One step of every sampler, on every process it is for, draws x_0 from p_{0|1}."""

from typing import Any

import pytest
import torch

from di4c_plugin.diffusion import (
    Absorbing,
    Confidence,
    DiscretisedGaussian,
    Halton,
    Process,
    Uniform,
    time_grid,
)
from di4c_plugin.plugins import lookup
from tests.enumeration import TableDenoiser, assert_drawn_from, product_law, rank, states

D, S = 2, 3
PROCESSES: dict[str, Process] = {
    "absorbing": Absorbing(S),
    "token": Absorbing(S + 1, mask=1),
    "confidence": Confidence(S),
    "halton": Halton(S, grid=(1, 2)),
    "uniform": Uniform(S),
    "gaussian": DiscretisedGaussian(S, rate_sigma=1.5, q_sigma=2.0, time_base=0.05),
}
SAMPLERS = ["ancestral", "analytic", "di4c", "hybrid", "maskgit", "halton", "tau_leaping"]
CASES = [
    (sampler, name)
    for sampler in SAMPLERS
    for name, process in PROCESSES.items()
    if (sampler not in ("maskgit", "halton") or isinstance(process, Absorbing))
    and (sampler != "tau_leaping" or name == "gaussian")
]


def table(process: Process, components: int) -> TableDenoiser:
    made = TableDenoiser(process, D, components, seed=4, scale=0.6)
    made.logits = process.restrict(made.logits)
    return made


@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(("sampler", "name"), CASES)
def test_one_step_draws_from_the_prediction(
    sampler: str, name: str, components: int, guidance: float
) -> None:
    process, n = PROCESSES[name], 20_000
    denoiser = table(process, components)
    generator = torch.Generator().manual_seed(0)
    x = process.prior((n, D), generator=generator, device=torch.device("cpu"))
    start = torch.bincount(rank(x, process.num_states), minlength=process.num_states**D) / n
    options: dict[str, Any] = {"guidance": guidance}
    if sampler == "hybrid":
        options |= {"teacher": table(process, 1), "teacher_steps": 0}
    if sampler == "halton":
        options |= {"grid": (1, 2)}
    if sampler == "tau_leaping":
        options |= {"last": "draw"}
    if guidance:
        # Without a class: (1 + w) log p - w log p is log p, by another way.
        options |= {"cond": torch.zeros(n, dtype=torch.int64)}
    draw = lookup("sampler", sampler)
    found = draw(denoiser, x, time_grid(1), process=process, generator=generator, **options)
    laws = product_law(denoiser.table(1.0)).mean(0)
    law = start.double() @ laws
    law[law < 1e-9] = 0
    assert_drawn_from(rank(found, process.num_tokens), law)
    assert len(states(process.num_tokens, D)) == len(law)
