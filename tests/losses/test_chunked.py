"""The backward pass by hand: its gradients, precision and memory."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.mixture import log_mean_exp
from di4c_plugin.losses.terms import PositionTerms, position_terms
from di4c_plugin.networks.predictions import Formed
from tests.losses.cases import TERMS, Case, error, tensors, with_gradients
from tests.losses.recorder import Recorder

CHUNKS = [1, 2, 5]


# Gradients


@pytest.mark.slow
@pytest.mark.parametrize("positions", CHUNKS)
@pytest.mark.parametrize("process", [Absorbing(4, mask=2), Uniform(3, leave_one_out=True)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("target", [True, False], ids=["target", "no target"])
def test_gradcheck(positions: int, process: Process, bias: bool, target: bool) -> None:
    case = Case(3, 5, process.num_tokens, width=3, process=process, bias=bias, target=target)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        h, weight, *more = leaves
        student = replace(case.student, h=h, weight=weight, bias=more[0] if bias else None)
        terms = position_terms(student, case.targets, max_bytes=case.budget(positions))
        return tuple(tensors(terms))

    assert torch.autograd.gradcheck(function, case.leaves)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_by_itself(name: str) -> None:
    """The others then send no gradient back."""
    case = Case(3, 5, 6)
    grads = [
        torch.autograd.grad(getattr(case.terms(kind, case.budget(2)), name).sum(), case.leaves)
        for kind in ("chunked", "naive")
    ]
    assert error(*grads) < 1e-12


def test_a_second_backward_pass_finds_the_same() -> None:
    """Nothing that is kept is overwritten, nor the upstream gradients."""
    case = Case(3, 5, 6)
    terms = tensors(case.terms("chunked", case.budget(2)))
    pulls = [torch.randn_like(term) for term in terms]
    kept = [pull.clone() for pull in pulls]
    first, second = (
        torch.autograd.grad(terms, case.leaves, pulls, retain_graph=True) for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(pulls, kept, strict=True))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_what_is_frozen_gets_no_gradient(wanted: tuple[int, ...]) -> None:
    case = Case(3, 5, 6)
    want = case.results("naive")[1:]
    for index, leaf in enumerate(case.leaves):
        leaf.requires_grad_(index in wanted)
    case.loss(case.terms("chunked", case.budget(2))).backward()
    for index, leaf in enumerate(case.leaves):
        if index not in wanted:
            assert leaf.grad is None
        else:
            assert leaf.grad is not None
            assert error([leaf.grad], [want[index]]) < 1e-12


def test_nothing_of_a_frozen_heads_size_is_made() -> None:
    """A gradient that nobody wants is not computed and dropped."""
    case = Case(2, 6, 400, width=50)
    sizes = []
    for frozen in (False, True):
        for leaf in case.leaves[1:]:
            leaf.requires_grad_(not frozen)
        loss = case.loss(case.terms("chunked", case.budget(1)))
        with Recorder() as recorder:
            loss.backward()
        sizes.append((400, 50) in recorder.shapes)
    assert sizes == [True, False]


def test_nothing_is_differentiated_in_teacher_and_target() -> None:
    case = Case(2, 5, 6)
    h = [p.h.requires_grad_() for p in (case.teacher, case.target)]
    case.loss(case.terms("chunked", case.budget(2))).backward()
    assert [leaf.grad for leaf in h] == [None, None]
    assert all(not term.requires_grad for term in tensors(frozen(case)))


def frozen(case: Case) -> PositionTerms:
    """The terms of a student that learns nothing."""
    for leaf in case.leaves:
        leaf.requires_grad_(False)
    return case.terms("chunked")


@pytest.mark.parametrize("implementation", ["naive", "checkpoint", "chunked"])
@pytest.mark.parametrize("positions", [0, 4])
def test_without_active_positions_the_graph_is_connected(
    implementation: str, positions: int
) -> None:
    case = Case(3, positions, 6, revealed=1.0)
    terms = tensors(case.terms(implementation, case.budget(1)))
    assert [t.shape for t in terms] == [
        (3, 2, positions),
        *[(positions,)] * 2,
        (3, 3, positions),
        (positions,),
    ]
    total = torch.stack([term.sum() for term in terms]).sum()
    assert total.item() == 0
    total.backward()
    for leaf in case.leaves:
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_a_student_without_hidden_states_is_refused() -> None:
    case = Case(2, 3, 4)
    everything = slice(None)
    student = Formed(case.student.log_p(everything), case.student.active(everything))
    with pytest.raises(UserError, match="loss=chunked needs a student with hidden states"):
        position_terms(student, case.targets, implementation="chunked")


# Precision


def long_text(bias: bool = True) -> Case:
    """512 masks, 1000 tokens, hidden states in bf16 and a head in fp32."""
    case = Case(8, 512, 1000, width=64, dtype=torch.float32, revealed=0.0, scale=0.3, bias=bias)
    for one in ("student", "teacher", "target"):
        hidden = getattr(case, one)
        h = hidden.h.detach().bfloat16().requires_grad_(one == "student")
        setattr(case, one, replace(hidden, h=h))
    case.targets = replace(case.targets, teacher=case.teacher, target=case.target)
    return case


def exact(case: Case) -> Case:
    """The same numbers in float64."""
    twin = long_text()
    twin.targets = case.targets
    for one in ("student", "teacher", "target"):
        hidden = getattr(case, one)
        changed = {
            name: getattr(hidden, name).detach().double().requires_grad_(one == "student")
            for name in ("h", "weight", "bias")
        }
        setattr(twin, one, replace(hidden, **changed))
    x_s = drawn(case)
    twin.targets = replace(case.targets, teacher=twin.teacher, target=twin.target, x_s=x_s, u=None)
    return twin


def drawn(case: Case) -> Tensor:
    """x_s, so that fp32 and float64 speak of the same tokens."""
    p = case.target.log_p(slice(None)).double().exp()
    assert case.targets.u is not None
    x_s = (p.cumsum(-1) <= case.targets.u.unsqueeze(-1) * p.sum(-1, keepdim=True)).sum(-1)
    case.targets = replace(case.targets, x_s=x_s, u=None)
    return x_s


def sums(terms: PositionTerms) -> list[Tensor]:
    """Joints of 512 tokens, and the sums of the others over the text."""
    joints = [log_mean_exp(t.sum(-1)) for t in tensors(terms) if t.ndim == 3]
    return joints + [t.sum(-1) for t in tensors(terms) if t.ndim == 1]


@pytest.fixture(scope="module")
def texts() -> tuple[Case, Case]:
    """A text, and the same in float64."""
    case = long_text()
    return case, exact(case)


@pytest.mark.parametrize("implementation", ["naive", "checkpoint", "chunked"])
def test_the_joint_of_512_tokens_under_autocast(
    implementation: str, texts: tuple[Case, Case]
) -> None:
    """Within 0.01 nat; a head in bf16 is not."""
    case, twin = texts
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = sums(case.terms(implementation, case.budget(64)))
    with torch.no_grad():
        want = sums(twin.terms("naive"))
    for one, other in zip(found, want, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() < 0.01


def test_a_bf16_head_would_be_seen(texts: tuple[Case, Case]) -> None:
    case, twin = texts
    with torch.no_grad():
        student = case.student
        logits = torch.nn.functional.linear(
            student.h, *(part.bfloat16() for part in case.leaves[1:])
        )
        log_p = student.process.restrict(logits.float()).log_softmax(-1)
        ell = log_p.gather(-1, case.targets.x_0.T.expand(8, -1, -1)).transpose(1, 2)
        want = twin.terms("naive").ell_data
    assert (log_mean_exp(ell.sum(-1)) - log_mean_exp(want.sum(-1))).abs().max() > 0.05


@pytest.mark.parametrize("implementation", ["naive", "checkpoint", "chunked"])
def test_autocast_changes_nothing(implementation: str) -> None:
    case = Case(3, 9, 300, width=16, dtype=torch.float32)
    bare = case.terms(implementation, case.budget(4))
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.terms(implementation, case.budget(4))
    for name, one, other in zip(TERMS, tensors(bare), tensors(inside), strict=True):
        assert torch.equal(one, other), name
    want = with_gradients(case.loss(bare), case.leaves)
    found = with_gradients(case.loss(inside), case.leaves)
    assert error(found, want) == 0


def test_gradients_have_the_dtypes_of_what_they_are_of(texts: tuple[Case, Case]) -> None:
    case, twin = texts
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(case.terms("chunked", case.budget(64)))
    found = torch.autograd.grad(loss, case.leaves)
    want = torch.autograd.grad(twin.loss(twin.terms("naive")), twin.leaves)
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32, torch.float32]
    of_h, of_weight, of_bias = (g.double() for g in found)
    # Rounded once, from what fp32 makes of it.
    rounding = want[0].abs() * 2**-8 + 2e-5 * want[0].abs().max()
    assert ((of_h - want[0]).abs() <= rounding).all()
    assert error([of_weight, of_bias], want[1:]) < 1e-4


# torch.compile


def step(case: Case, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A loss with something before it, to be compiled, and something after."""
    student = replace(case.student, h=h.tanh() + h, weight=weight, bias=bias)
    terms = position_terms(student, case.targets, max_bytes=case.budget(2))
    return torch.stack([term.square().sum() for term in tensors(terms)]).sum()


def compare_compiled(backend: str, positions: Sequence[int]) -> list[int]:
    """Compare loss and gradients, and count the graphs that there are after each."""
    torch._dynamo.reset()
    counters.clear()
    compiled: Callable[..., Tensor] = torch.compile(step, backend=backend)
    graphs = []
    for p in positions:
        case = Case(2, p, 6, seed=p)
        found = with_gradients(compiled(case, *case.leaves), case.leaves)
        assert error(found, with_gradients(step(case, *case.leaves), case.leaves)) < 1e-12
        graphs.append(counters["stats"]["unique_graphs"])
    return graphs


@pytest.mark.slow
def test_compiled_functions_are_not_compiled_for_each_number_of_positions() -> None:
    """Every update has another number of them, and the chunks would be unrolled."""
    graphs = compare_compiled("aot_eager", (5, 9, 4, 7, 2))
    assert graphs[0] > 0, "nothing was compiled"
    assert len(set(graphs[2:])) == 1


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32" or not any(map(shutil.which, ("g++", "clang++"))),
    reason="needs a C++ compiler",
)
def test_it_works_inside_a_function_that_inductor_compiles() -> None:
    assert compare_compiled("inductor", (5,))[0] > 0


# Memory


LATENTS = 6


def recorded(implementation: str, positions: int, tokens: int, chunk: int = 4) -> Recorder:
    """Forward and backward of one update; with vocabularies of one and of two levels."""
    case = Case(LATENTS, positions, tokens, width=2, dtype=torch.float32)
    with Recorder() as recorder:
        case.loss(case.terms(implementation, case.budget(chunk))).backward()
    return recorder


both_levels = pytest.mark.parametrize("tokens", [900, 3000])


@both_levels
@pytest.mark.parametrize("implementation", ["checkpoint", "chunked"])
def test_no_tensor_is_larger_than_the_budget(implementation: str, tokens: int) -> None:
    budget = 12 * LATENTS * tokens * 4
    assert recorded(implementation, 32, tokens).largest <= budget
    assert recorded("naive", 32, tokens).largest > budget, "or anything would do"


@both_levels
@pytest.mark.parametrize("implementation", ["checkpoint", "chunked"])
def test_memory_does_not_grow_with_the_positions(implementation: str, tokens: int) -> None:
    """But for what is kept of a position: far less than N numbers for each token."""
    short, long = (recorded(implementation, p, tokens) for p in (32, 128))
    assert short.largest == long.largest
    of_a_position = LATENTS * tokens * 4
    assert long.peak - short.peak < 96 * of_a_position / 10
    naive = [recorded("naive", p, tokens).peak for p in (32, 128)]
    assert naive[1] - naive[0] > 96 * of_a_position


@both_levels
def test_what_lives_at_a_time_is_near_the_budget(tokens: int) -> None:
    """Of N x c x S numbers: fp32, and for the small vocabularies float64 while x_s is drawn."""
    size = 16
    budget = 12 * LATENTS * tokens * size
    assert recorded("chunked", 64, tokens, size).peak < 2 * budget
