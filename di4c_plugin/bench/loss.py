"""The Di4C loss of one sequence, from random hidden states and a head to their gradients."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.bench.cases import LossCase
from di4c_plugin.bench.measure import free_bytes, median_seconds, peak_bytes
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.losses.terms import Targets, example_terms, position_terms
from di4c_plugin.networks.predictions import Hidden

# What the naive twin holds at its peak, in tensors of (N, P, S).
NAIVE_TENSORS = 10
PIECE = 1 << 22


@dataclass(frozen=True)
class Inputs:
    """The loss's arguments at P positions; `student` holds the leaves h, weight and bias."""

    student: Hidden
    targets: Targets

    @property
    def leaves(self) -> dict[str, Tensor]:
        """What is differentiated, by name."""
        assert self.student.bias is not None
        return {"h": self.student.h, "weight": self.student.weight, "bias": self.student.bias}

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the leaves that have one."""
        return {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}

    def clear(self) -> None:
        """Forget the gradients."""
        for leaf in self.leaves.values():
            leaf.grad = None


@dataclass(frozen=True)
class Values:
    """Random numbers on the CPU, equal in every process and on every device.

    Attributes:
        hidden: of student, teacher and target, (N or 1, P, H).
        weight, bias: the head's, (S, H) and (S,).
        x_0, x_t: (1, P).
        v: U[0, 1) (N, P), float64.
    """

    hidden: tuple[Tensor, Tensor, Tensor]
    weight: Tensor
    bias: Tensor
    x_0: Tensor
    x_t: Tensor
    v: Tensor


def draw_values(case: LossCase) -> Values:
    """Draw logits with a standard deviation near 2, and masks spread at random."""
    generator = torch.Generator().manual_seed(case.seed)
    n, d, size, s = case.latents, case.positions, case.hidden, case.vocab
    dtype = getattr(torch, case.dtype)
    head_dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    normal = partial(torch.randn, generator=generator)
    student, teacher, target = (normal(k, d, size).to(dtype) for k in (n, 1, n))
    x_0 = torch.randint(s - 1, (1, d), generator=generator)
    unknown = torch.randperm(d, generator=generator)[: case.active]
    return Values(
        hidden=(student, teacher, target),
        weight=(normal(s, size) * 2 / size**0.5).to(head_dtype),
        bias=normal(s).to(head_dtype),
        x_0=x_0,
        x_t=x_0.index_fill(1, unknown, s - 1),
        v=torch.rand(n, d, generator=generator, dtype=torch.float64),
    )


def make_inputs(
    case: LossCase, *, everywhere: bool, double: bool = False, settled: bool = True
) -> Inputs:
    """Return inputs on the device that the case decides.

    Args:
        case: the sizes.
        everywhere: all positions, the revealed ones among them, as the naive twin takes them; else
            the unknown ones.
        double: in float64, with the values that the case's dtype has.
        settled: see `settle`, which takes its time; needed where results are compared.
    """
    values, process = draw_values(case), Absorbing(case.vocab, mask=case.vocab - 1)
    where = torch.ones_like(values.x_t[0], dtype=torch.bool)
    if not everywhere:
        where = process.active(values.x_t[0])

    def place(value: Tensor) -> Tensor:
        return (value.double() if double else value).to(case.device)

    x_0, x_t, v = (value[:, where].to(case.device) for value in (values.x_0, values.x_t, values.v))
    h, h_teacher, h_target = (place(value[:, where]) for value in values.hidden)
    weight, bias = place(values.weight), place(values.bias)
    t = torch.full(x_t.shape[1:], case.masked, dtype=torch.float64, device=case.device)
    predict = partial(Hidden, x=x_t, t=t, process=process, revealed=everywhere)
    # The target sees a later state: some positions that the student must predict may be known.
    target = replace(predict(h_target, weight, bias), revealed=True)
    u = settle(target, v) if settled else v
    targets = Targets(x_0, predict(h_teacher, weight, bias), target, u)
    return Inputs(predict(*(leaf.detach().requires_grad_() for leaf in (h, weight, bias))), targets)


def settle(target: Hidden, v: Tensor) -> Tensor:
    """Return u (N, P) that draw likely tokens, and the same ones whatever the rounding.

    Each is the middle of its token's share of [0, 1). Drawn freely, a few u would lie so near an
    edge that float32 and float64 took neighbours, and the loss of other targets is no error.
    """
    u = torch.full_like(v, 0.5)
    weight, bias = target.weight.double(), target.bias
    exact = replace(target, weight=weight, bias=None if bias is None else bias.double())
    for i in target.active(slice(None)).nonzero().flatten().tolist():
        p = exact.log_p(slice(i, i + 1)).squeeze(1).exp()
        x = inverse_cdf(p.where(p >= 1 / target.tokens, 0).log(), v[:, i]).unsqueeze(-1)
        u[:, i] = (p.cumsum(-1) - p / 2).gather(-1, x).squeeze(-1)
    return u


def loss_and_gradients(inputs: Inputs, implementation: str, budget_mb: int) -> Tensor:
    """Add all five terms up and differentiate; return the loss, detached."""
    terms = position_terms(
        inputs.student,
        inputs.targets,
        implementation=implementation,
        max_bytes=budget_mb << 20,
    )
    example = torch.zeros_like(inputs.student.x[0])
    total = torch.stack(list(example_terms(terms, example=example, count=1).values())).sum()
    total.backward()
    return total.detach()


def measure_loss(case: LossCase, reference: Path | None = None) -> dict[str, Any]:
    """Return "peak_mb", "seconds" and "max_rel_error" against the gradients in `reference`.

    The peak is above inputs and the gradients of weight and bias.
    """
    device, everywhere = torch.device(case.device), case.impl == "naive"
    # What libraries take for themselves at their first use is no memory of the loss.
    tiny = replace(case, vocab=64, latents=2, positions=4, hidden=8)
    loss_and_gradients(make_inputs(tiny, everywhere=everywhere), case.impl, case.budget_mb)
    inputs = make_inputs(case, everywhere=everywhere, settled=reference is not None)
    values: list[Tensor] = []

    def run() -> None:
        values[:] = [loss_and_gradients(inputs, case.impl, case.budget_mb)]

    peak, _ = peak_bytes(run, device)
    peak -= sum(inputs.gradients()[name].nbytes for name in ("weight", "bias"))
    error = None if reference is None else error_of(inputs, values[0], reference)
    clock = median_seconds(run, inputs.clear, case.repeats, device)
    return {"peak_mb": peak / 1e6, "seconds": clock, "max_rel_error": error}


def error_of(inputs: Inputs, loss: Tensor, reference: Path) -> float:
    """Return `max_rel_error` of a loss and the gradients in `inputs`, at unknown positions."""
    gradients, active = inputs.gradients(), inputs.student.active(slice(None))
    ours = gradients | {"loss": loss, "h": gradients["h"][:, active]}
    return max_rel_error(ours, torch.load(reference, weights_only=True))


def max_rel_error(ours: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """Return the largest |a - b| / max |b| over the loss and all gradients; b is float64."""
    errors = []
    for name, b in truth.items():
        # In pieces: the head's gradient is large enough once.
        pieces = zip(ours[name].reshape(-1).split(PIECE), b.reshape(-1).split(PIECE), strict=True)
        worst = max(float((x.to(y) - y).abs().max()) for x, y in pieces)
        errors.append(worst / float(b.abs().max()))
    return max(errors)


def write_reference(case: LossCase, path: Path) -> dict[str, Any]:
    """Write loss and gradients of the naive twin in float64, over the unknown positions, to `path`.

    Returns {"skipped": reason} where memory does not suffice, else {}.
    """
    device = torch.device(case.device)
    need = NAIVE_TENSORS * case.latents * case.active * case.vocab * 8
    free = free_bytes(device)
    if need > free:
        gigabytes = f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return {"skipped": f"the float64 twin needs about {gigabytes}"}
    inputs = make_inputs(case, everywhere=False, double=True)
    loss = loss_and_gradients(inputs, "naive", case.budget_mb)
    torch.save({"loss": loss} | inputs.gradients(), path)
    return {}
