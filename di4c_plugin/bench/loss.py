"""The loss of Di4C on one sequence, from random hidden states and a head to their gradients."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.bench.cases import LossCase
from di4c_plugin.bench.measure import median_seconds, peak_bytes
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.losses.terms import IMPLEMENTATIONS, Targets, example_terms, position_terms
from di4c_plugin.networks.predictions import Hidden


def make_inputs(case: LossCase) -> tuple[Hidden, Targets]:
    """Return the student's prediction, whose h, weight and bias are leaves, and its targets.

    Logits have a standard deviation near 2. The naive twin takes all positions, the others the
    unknown ones, as the method gives them.
    """
    generator = torch.Generator().manual_seed(case.seed)
    n, d, size, s = case.latents, case.positions, case.hidden, case.vocab
    normal = partial(torch.randn, generator=generator)
    process, everywhere = Absorbing(s, mask=s - 1), case.impl == "naive"
    x_0 = torch.randint(s - 1, (1, d), generator=generator)
    unknown = torch.randperm(d, generator=generator)[: max(1, round(case.masked * d))]
    x_t = x_0.index_fill(1, unknown, s - 1)
    where = torch.ones(d, dtype=torch.bool) if everywhere else process.active(x_t[0])
    u = torch.rand(n, d, generator=generator, dtype=torch.float64)
    dtype = getattr(torch, case.dtype)
    student, teacher, target = (normal(k, d, size).to(dtype)[:, where] for k in (n, 1, n))
    weight, bias = normal(s, size) * 2 / size**0.5, normal(s)
    device = torch.device(case.device)
    x, t = x_t[:, where].to(device), torch.full((int(where.sum()),), case.masked, device=device)
    weight, bias = weight.to(device), bias.to(device)
    predict = partial(Hidden, x=x, t=t.double(), process=process, revealed=everywhere)
    leaves = [leaf.to(device).detach().requires_grad_() for leaf in (student, weight, bias)]
    # The target sees a later state: some positions that the student must predict may be known.
    later = replace(predict(target.to(device), weight, bias), revealed=True)
    targets = Targets(
        x_0[:, where].to(device),
        predict(teacher.to(device), weight, bias),
        later,
        u[:, where].to(device),
    )
    return predict(*leaves), targets


def loss_and_gradients(student: Hidden, targets: Targets, implementation: str, mib: int) -> None:
    """Add all five terms up and differentiate, with `mib` MiB for a chunk."""
    terms = position_terms(student, targets, implementation=implementation, max_bytes=mib << 20)
    example = torch.zeros_like(student.x[0])
    torch.stack(list(example_terms(terms, example=example, count=1).values())).sum().backward()


def measure_loss(case: LossCase) -> dict[str, Any]:
    """Return "seconds", and "peak_mb" above inputs and the gradients of weight and bias.

    Raises:
        UserError: for an unknown implementation.
    """
    if case.impl not in IMPLEMENTATIONS:
        raise UserError(f"unknown loss {case.impl!r}; there are {', '.join(IMPLEMENTATIONS)}")
    device = torch.device(case.device)
    # Warm up: memory that libraries allocate at first use does not count.
    tiny = replace(case, vocab=64, latents=2, positions=4, hidden=8)
    loss_and_gradients(*make_inputs(tiny), case.impl, case.budget_mb)
    student, targets = make_inputs(case)
    leaves = [leaf for leaf in (student.h, student.weight, student.bias) if leaf is not None]

    def run() -> None:
        loss_and_gradients(student, targets, case.impl, case.budget_mb)

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    peak, _ = peak_bytes(run, device)
    peak -= _bytes(leaves[1:])
    return {"peak_mb": peak / 1e6, "seconds": median_seconds(run, clear, case.repeats, device)}


def _bytes(leaves: list[Tensor]) -> int:
    return sum(leaf.nbytes for leaf in leaves)
