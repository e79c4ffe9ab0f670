"""Functions of log-probabilities by chunks against the naive twin: values, gradients and memory.

The functions are those of distillation methods that are not here: D-MMD and SDTT.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.diffusion.categorical import inverse_cdf
from di4c_plugin.errors import UserError
from di4c_plugin.losses.positions import Function, position_sums
from di4c_plugin.networks.predictions import Formed, Hidden, Prediction
from tests.losses.cases import error, token_process
from tests.losses.recorder import Recorder

ALL = slice(None)


def prediction(
    positions: int,
    tokens: int,
    *,
    count: int = 1,
    width: int = 5,
    process: Process | None = None,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    revealed: float = 0.3,
    seed: int = 0,
) -> Hidden:
    """Random hidden states and a head, all of them leaves with gradients."""
    generator = torch.Generator().manual_seed(seed)
    process = process or token_process(tokens)
    mask = getattr(process, "mask", None)

    def leaf(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        return values.requires_grad_()

    # Equal states for every seed: the predictions are of one x_t.
    states = torch.Generator().manual_seed(7)
    x = torch.randint(tokens, (1, positions), generator=states)
    if mask is not None:
        known = torch.rand(x.shape, generator=states) < revealed
        x = ((x + (x == mask)) % tokens).where(known, mask)
    t = torch.rand(positions, generator=states, dtype=torch.float64) * 0.9 + 0.05
    h, weight = leaf(count, positions, width), leaf(tokens, width)
    return Hidden(h, weight, leaf(tokens) if bias else None, x, t, process)


def leaves_of(predictions: Sequence[Prediction]) -> list[Tensor]:
    """What gets a gradient."""
    found = [leaf for p in predictions for leaf in p.leaves if leaf is not None]
    return [leaf for leaf in found if leaf.requires_grad]


# D-MMD, of student, auxiliary and teacher


def moments(part: slice, student: Tensor, auxiliary: Tensor, teacher: Tensor) -> list[Tensor]:
    """The generator's loss: sum over c of p_c (log phi_c - log theta_c)."""
    return [(student.exp() * (auxiliary - teacher)).sum(-1).squeeze(0)]


def hard_targets(x_0: Tensor) -> Function:
    """The cross-entropies of x_0 (P,) from every head, and the auxiliary's with the teacher's p."""

    def function(part: slice, student: Tensor, auxiliary: Tensor, teacher: Tensor) -> list[Tensor]:
        def cross(log_p: Tensor) -> Tensor:
            own = x_0[part].view(1, -1, 1).expand(len(log_p), -1, 1)
            return -log_p.gather(-1, own).squeeze(-1)

        soft = -(teacher.exp() * auxiliary).sum(-1)
        return [cross(student), cross(auxiliary), cross(teacher), soft]

    return function


# SDTT, of student and teacher


def kl(part: slice, student: Tensor, teacher: Tensor) -> list[Tensor]:
    return [(teacher.exp() * (teacher - student)).sum(-1)]


def reverse_kl(part: slice, student: Tensor, teacher: Tensor) -> list[Tensor]:
    return [(student.exp() * (student - teacher)).sum(-1)]


def mean_square(part: slice, student: Tensor, teacher: Tensor) -> list[Tensor]:
    """Of log-probabilities; what is impossible for one is so for both."""
    return [(student.clamp(min=-100) - teacher.clamp(min=-100)).square().mean(-1)]


def total_variation(part: slice, student: Tensor, teacher: Tensor) -> list[Tensor]:
    return [(student.exp() - teacher.exp()).abs().sum(-1) / 2]


def targets(positions: int, tokens: int) -> Tensor:
    """Tokens that are never the mask of `token_process`."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(max(tokens - 1, 1), (positions,), generator=generator)


# Each for P and S: how many predictions it takes, and the function.
FUNCTIONS: dict[str, tuple[int, Callable[[int, int], Function]]] = {
    "moments": (3, lambda p, s: moments),
    "hard targets": (3, lambda p, s: hard_targets(targets(p, s))),
    "kl": (2, lambda p, s: kl),
    "reverse kl": (2, lambda p, s: reverse_kl),
    "mean square": (2, lambda p, s: mean_square),
    "total variation": (2, lambda p, s: total_variation),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def results(
    function: Function, predictions: Sequence[Prediction], implementation: str, chunk: int = 1
) -> list[Tensor]:
    """All values, and the gradients of a sum that each enters with a weight of its own."""
    values = position_sums(
        function,
        *predictions,
        implementation=implementation,
        max_bytes=budget(predictions, chunk),
    )
    pull = torch.Generator().manual_seed(5)
    weights = [torch.randn(v.shape, generator=pull, dtype=torch.float64).to(v) for v in values]
    total = torch.stack([(w * v).sum() for w, v in zip(weights, values, strict=True)]).sum()
    grads = torch.autograd.grad(total, leaves_of(predictions), allow_unused=True)
    return [v.detach() for v in values] + [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves_of(predictions), grads, strict=True)
    ]


def budget(predictions: Sequence[Prediction], chunk: int) -> int:
    """The bytes that make chunks of so many positions."""
    return 12 * sum(p.count for p in predictions) * predictions[0].tokens * chunk


# Against the twin


@every_function
@pytest.mark.parametrize(("positions", "tokens"), [(1, 2), (7, 31), (33, 5), (4, 1025)])
def test_values_and_gradients_are_the_naive_ones(name: str, positions: int, tokens: int) -> None:
    count, make = FUNCTIONS[name]
    function = make(positions, tokens)
    revealed = 0.3 if positions > 1 else 0.0
    predictions = [prediction(positions, tokens, revealed=revealed, seed=i) for i in range(count)]
    want = results(function, predictions, "naive")
    assert any(float(value.abs().max()) > 1e-6 for value in want), "nothing to compare"
    for chunk in (1, 3, positions):
        assert error(results(function, predictions, "chunked", chunk), want) < 1e-11


PROCESSES: dict[str, Process] = {
    "mask is a token": Absorbing(6, mask=2),
    "mask is a state": Absorbing(6),
    "uniform": Uniform(6),
    "uniform, leave one out": Uniform(6, leave_one_out=True),
}


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("count", [1, 3])
def test_every_kind_of_prediction(process: Process, bias: bool, count: int) -> None:
    """The student's N lambda beside a teacher's one, of any process."""
    student = prediction(7, 6, count=count, process=process, bias=bias)
    teacher = prediction(7, 6, process=process, bias=bias, seed=1)
    for function in (kl, reverse_kl):
        want = results(function, [student, teacher], "naive")
        assert error(results(function, [student, teacher], "chunked", 2), want) < 1e-11


def test_formed_predictions_and_hidden_ones_together() -> None:
    student, teacher = prediction(7, 6), prediction(7, 6, seed=1)
    made = Formed(teacher.log_p(ALL).detach().requires_grad_(), teacher.active(ALL))
    want = results(reverse_kl, [student, made], "naive")
    assert error(results(reverse_kl, [student, made], "chunked", 2), want) < 1e-11
    assert error(want[:4], results(reverse_kl, [student, teacher], "naive")[:4]) < 1e-12


@every_function
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_gradcheck(name: str, chunk: int) -> None:
    count, make = FUNCTIONS[name]
    function = make(4, 5)
    predictions = [prediction(4, 5, width=2, process=Uniform(5), seed=i) for i in range(count)]

    def values(*leaves: Tensor) -> tuple[Tensor, ...]:
        moved = [
            replace(p, h=h, weight=weight, bias=bias)
            for p, h, weight, bias in zip(
                predictions, leaves[::3], leaves[1::3], leaves[2::3], strict=True
            )
        ]
        found = position_sums(function, *moved, max_bytes=budget(moved, chunk))
        return tuple(found)

    assert torch.autograd.gradcheck(values, leaves_of(predictions))


def test_one_head_of_two_predictions_gets_both_gradients() -> None:
    student = prediction(5, 6)
    other = replace(student, h=torch.randn(1, 5, 5, dtype=torch.float64).requires_grad_())
    found, want = (results(kl, [student, other], way, 2) for way in ("chunked", "naive"))
    assert error(found, want) < 1e-12


@pytest.mark.parametrize("positions", [0, 3])
@pytest.mark.parametrize("implementation", ["naive", "chunked"])
def test_without_positions_or_masks_the_graph_is_connected(
    implementation: str, positions: int
) -> None:
    predictions = [prediction(positions, 6, revealed=1.0, seed=i) for i in range(3)]
    assert not predictions[0].active(ALL).any()
    (values,) = position_sums(moments, *predictions, implementation=implementation, max_bytes=1)
    assert values.shape == (positions,)
    values.where(predictions[0].active(ALL), 0).sum().backward()
    for leaf in leaves_of(predictions):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_what_is_frozen_gets_no_gradient() -> None:
    student, auxiliary, teacher = (prediction(6, 5, seed=i) for i in range(3))
    want = results(moments, [student, auxiliary, teacher], "naive")
    for leaf in (student.weight, auxiliary.h, *teacher.leaves):
        assert leaf is not None
        leaf.requires_grad_(False)
    found = results(moments, [student, auxiliary, teacher], "chunked", 4)
    assert error(found, [want[i] for i in (0, 1, 3, 5, 6)]) < 1e-12
    for leaf in leaves_of([student, auxiliary]):
        leaf.requires_grad_(False)
    (values,) = position_sums(moments, student, auxiliary, teacher)
    assert not values.requires_grad


def test_values_that_are_no_loss() -> None:
    """Drawn tokens are given out too; values without a gradient are left alone."""
    student, teacher = prediction(6, 5), prediction(6, 5, seed=1)
    u = torch.rand(1, 6, dtype=torch.float64)

    def function(part: slice, log_p: Tensor, log_q: Tensor) -> list[Tensor]:
        drawn = inverse_cdf(log_p, u[:, part])
        return [drawn, log_q.detach().exp().square().sum(-1), *kl(part, log_p, log_q)]

    drawn, likelihood, divergence = position_sums(
        function, student, teacher, max_bytes=budget([student, teacher], 2)
    )
    assert torch.equal(drawn, inverse_cdf(student.log_p(ALL), u))
    assert not drawn.requires_grad
    likelihood.sum().backward(retain_graph=True)
    assert all((leaf.grad == 0).all() for leaf in leaves_of([student]) if leaf.grad is not None)
    (of_h,) = torch.autograd.grad(divergence.sum(), [student.h])
    assert (of_h != 0).any()


def test_a_second_backward_pass_finds_the_same() -> None:
    predictions = [prediction(5, 6, seed=i) for i in range(2)]
    (values,) = position_sums(kl, *predictions, max_bytes=budget(predictions, 2))
    first, second = (
        torch.autograd.grad(values.sum(), leaves_of(predictions), retain_graph=True)
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_an_unknown_implementation_is_named() -> None:
    with pytest.raises(UserError, match="unknown implementation 'triton': naive or chunked"):
        position_sums(kl, prediction(2, 3), prediction(2, 3), implementation="triton")


# Precision


def bf16(own: Hidden) -> Hidden:
    """With hidden states in bf16 and a head in fp32, as a network under autocast gives them."""
    return replace(
        own,
        h=own.h.detach().bfloat16().requires_grad_(),
        weight=own.weight.detach().float().requires_grad_(),
        bias=None if own.bias is None else own.bias.detach().float().requires_grad_(),
    )


def doubled(own: Hidden) -> Hidden:
    """The same numbers in float64."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in own.leaves if leaf is not None]
    return replace(own, h=leaves[0], weight=leaves[1], bias=leaves[2])


@every_function
@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_hidden_states_with_sums_in_fp32(name: str, autocast: bool) -> None:
    count, make = FUNCTIONS[name]
    function = make(64, 300)
    predictions = [bf16(prediction(64, 300, width=16, seed=i)) for i in range(count)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = results(function, predictions, "chunked", 5)
    want = results(function, [doubled(p) for p in predictions], "naive")
    number = len(found) - 3 * count
    assert all(value.dtype == torch.float32 for value in found[:number])
    assert error([v.double() for v in found[:number]], want[:number]) < 1e-5
    for i in range(count):
        of_h, *of_head = found[number + 3 * i : number + 3 * i + 3]
        want_h, *want_head = want[number + 3 * i : number + 3 * i + 3]
        assert of_h.dtype == torch.bfloat16
        assert all(g.dtype == torch.float32 for g in of_head)
        # Rounded to bf16 once, from what fp32 makes of it.
        rounding = want_h.abs() * 2**-8 + 5e-5 * want_h.abs().max()
        assert ((of_h.double() - want_h).abs() <= rounding).all()
        assert error([g.double() for g in of_head], want_head) < 1e-4


# Memory


def recorded(name: str, implementation: str, positions: int, chunk: int = 4) -> Recorder:
    """Forward and backward with a large vocabulary and narrow hidden states, in fp32."""
    count, make = FUNCTIONS[name]
    function: Any = make(positions, 900)
    predictions = [
        prediction(positions, 900, width=2, dtype=torch.float32, seed=i) for i in range(count)
    ]
    with Recorder() as recorder:
        results(function, predictions, implementation, chunk)
    return recorder


@every_function
def test_nothing_of_all_positions_and_tokens_is_made(name: str) -> None:
    short, long = (recorded(name, "chunked", p) for p in (32, 128))
    # In bytes: a chunk's logits of one prediction at least, of all its positions by far not.
    assert short.largest == long.largest < 32 * 900 * 4
    assert not any(len(shape) > 1 and shape[-1] == 900 and 128 in shape for shape in long.shapes)
    # What is kept of a position is a few numbers.
    assert long.peak - short.peak < 96 * 900 * 4 / 10
    assert recorded(name, "naive", 128).largest >= 128 * 900 * 4, "or anything would do"


@every_function
def test_what_lives_at_a_time_is_near_the_budget(name: str) -> None:
    count, _ = FUNCTIONS[name]
    assert recorded(name, "chunked", 64, 16).peak < 2 * 12 * count * 900 * 16
