"""The terms against sums over all of S^D, and every implementation against the naive one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.chunk import chunks_for
from di4c_plugin.losses.positions import chunks
from di4c_plugin.losses.terms import IMPLEMENTATIONS, example_terms, position_terms
from di4c_plugin.networks.predictions import Formed, Hidden
from tests.enumeration import product_law, rank, relative_entropy
from tests.losses.cases import TERMS, Case, error, tensors

FAST = [name for name in IMPLEMENTATIONS if name != "naive"]
PROCESSES: dict[str, Process] = {
    "mask is a token": Absorbing(4, mask=1),
    "mask is a state": Absorbing(3),
    "uniform": Uniform(3, leave_one_out=True),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
TOLERANCE = 1e-10


# By enumeration


def probabilities(hidden: Hidden) -> Tensor:
    """p_{0|t}(x^d) by its definition at open positions, (N, P, S); the others do not matter."""
    weight = (hidden.h.detach().unsqueeze(2) * hidden.weight.detach()).sum(-1)
    weight = (weight + (0 if hidden.bias is None else hidden.bias.detach())).exp()
    process = hidden.process
    if isinstance(process, Uniform) and process.leave_one_out:
        q = process.transition(torch.zeros_like(hidden.t), hidden.t)
        column = torch.arange(len(hidden.t))
        weight = weight * q[column, :, hidden.x.expand(hidden.h.shape[:2])]
    if isinstance(process, Absorbing) and process.mask_is_token:
        weight[..., process.mask] = 0
    return weight / weight.sum(-1, keepdim=True)


def certain(hidden: Hidden) -> Tensor:
    """The same, with the point mass where a state is known."""
    p, x = probabilities(hidden), hidden.x.expand(hidden.h.shape[:2])
    known = ~hidden.process.active(x)
    hot = torch.nn.functional.one_hot(x.clamp(max=hidden.tokens - 1), hidden.tokens)
    return torch.where(known.unsqueeze(-1), hot.to(p.dtype), p)


@dataclass
class Laws:
    """What an example's open positions are predicted to be, as laws over S^D."""

    student: Tensor
    """One law for each lambda, (N, S^D)."""
    student_marginals: Tensor
    teacher_marginals: Tensor
    target_marginals: Tensor
    x_0: Tensor
    """Where the J targets stand in S^D."""
    x_s: Tensor


def laws(case: Case, places: Tensor) -> Laws:
    """Those of the example that has the positions `places`."""

    def mixed(p: Tensor) -> Tensor:
        return product_law(p[:, places].mean(0).log())

    assert case.targets.x_s is not None
    s = case.shape[2]
    p = probabilities(case.student)
    return Laws(
        product_law(p[:, places].log()),
        mixed(p),
        mixed(probabilities(case.teacher)),
        mixed(certain(case.target)),
        rank(case.targets.x_0[:, places], s),
        rank(case.targets.x_s[:, places], s),
    )


def by_definition(of: Laws) -> dict[str, Tensor]:
    """Each term of one example, in nats."""
    gap = of.student_marginals.log() - of.student.mean(0).log()
    return {
        "distil": relative_entropy(of.teacher_marginals, of.student).mean(),
        "data_corr": gap[of.x_0].mean(),
        "data_marg": relative_entropy(of.teacher_marginals, of.student_marginals),
        "consis_corr": gap[of.x_s].mean(),
        "consis_marg": relative_entropy(of.target_marginals, of.student_marginals),
    }


def enumerable(process: Process, teachers: int, data: int) -> Case:
    """Three examples of 4, 2 and 2 positions, x_s given."""
    case = Case(4, 8, process.num_tokens, process=process, teachers=teachers, data=data, seed=3)
    case.targets = replace(case.targets, x_s=case.tokens(4), u=None)
    return case


EXAMPLE = torch.tensor([0, 2, 0, 0, 1, 2, 0, 1])


@every_process
@every_implementation
@pytest.mark.parametrize("positions", [1, 3, 8])
@pytest.mark.parametrize(("teachers", "data"), [(1, 1), (1, 5), (3, 2)])
def test_terms_are_those_of_the_laws(
    process: Process, implementation: str, positions: int, teachers: int, data: int
) -> None:
    case = enumerable(process, teachers, data)
    terms = case.terms(implementation, case.budget(positions))
    # A fourth example has no position.
    found = example_terms(terms, EXAMPLE, 4)
    open_ones = process.active(case.student.x[0])
    assert (~open_ones).sum() == (0 if isinstance(process, Uniform) else 2)
    for b in range(3):
        want = by_definition(laws(case, torch.nonzero(open_ones & (b == EXAMPLE)).flatten()))
        assert found.keys() == want.keys()
        for name, value in want.items():
            assert found[name][b].item() == pytest.approx(value.item(), abs=1e-11), name
    assert all(value.shape == (4,) and value[3] == 0 for value in found.values())


@every_process
@every_implementation
def test_closed_positions_give_nothing(process: Process, implementation: str) -> None:
    case = Case(3, 9, process.num_tokens, process=process)
    closed = ~process.active(case.student.x[0])
    terms = tensors(case.terms(implementation, case.budget(2)))
    assert all((term[..., closed] == 0).all() for term in terms)
    assert all((term[..., ~closed] != 0).all() for term in terms)
    total = torch.stack([term.square().sum() for term in terms]).sum()
    (of_h,) = torch.autograd.grad(total, [case.student.h])
    assert (of_h[:, closed] == 0).all()
    assert (of_h[:, ~closed] != 0).any(-1).all()


@every_implementation
@pytest.mark.parametrize("tokens", [7, 1500])
def test_x_s_is_drawn_by_u(implementation: str, tokens: int) -> None:
    """The first token at which the target's cumulative probability is above u."""
    case = Case(3, 8, tokens)
    p = certain(case.target)
    assert case.targets.u is not None
    x_s = (p.cumsum(-1) <= case.targets.u.unsqueeze(-1)).sum(-1)
    assert len(x_s.unique()) > 5, "or there is nothing to compare"
    found = case.terms(implementation, case.budget(3))
    case.targets = replace(case.targets, x_s=x_s, u=None)
    given = case.terms(implementation, case.budget(3))
    assert found.ell_consis is not None
    torch.testing.assert_close(found.ell_consis, given.ell_consis, rtol=1e-12, atol=1e-12)
    log_p = probabilities(case.student).log()
    n, j, d = 2, 1, int(torch.nonzero(case.process.active(case.student.x[0]))[0])
    assert found.ell_consis[n, j, d].item() == pytest.approx(float(log_p[n, d, x_s[j, d]]))


# Against the naive twin


def given_x_s() -> Case:
    case = Case(3, 5, 6)
    case.targets = replace(case.targets, x_s=case.tokens(3), u=None)
    return case


KINDS: dict[str, Callable[[], Case]] = {
    "usual": lambda: Case(3, 5, 6),
    "no target": lambda: Case(3, 5, 6, target=False),
    "mixture teacher": lambda: Case(2, 5, 6, teachers=3, data=4),
    "no bias": lambda: Case(3, 5, 6, bias=False, data=1),
    "uniform": lambda: Case(3, 6, 6, process=Uniform(6, leave_one_out=True)),
    "x_s is given": given_x_s,
}


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [1, 2, 100])
def test_every_kind_of_target_is_as_the_naive_one(
    implementation: str, kind: str, positions: int
) -> None:
    case = KINDS[kind]()
    found = case.results(implementation, case.budget(positions))
    assert error(found, case.results("naive")) < 1e-12


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("p", [1, 7, 33])
@pytest.mark.parametrize("s", [2, 31, 1025])
def test_loss_and_gradients_are_those_of_the_naive_one(n: int, p: int, s: int) -> None:
    case = Case(n, p, s, revealed=0.2 if p > 1 else 0.0, seed=1)
    want = case.results("naive")
    assert all(float(value.abs().max()) > 1e-6 for value in want), "nothing to compare"
    for implementation in FAST:
        for positions in (1, 3, p):
            found = case.results(implementation, case.budget(positions))
            assert error(found, want) < TOLERANCE, (implementation, positions)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_differences(implementation: str, name: str) -> None:
    """Of each term by itself, along a random direction."""
    case = Case(3, 4, 5, seed=2)

    def value(shift: float) -> Tensor:
        moved = [leaf + shift * way for leaf, way in zip(case.leaves, ways, strict=True)]
        student = replace(case.student, h=moved[0], weight=moved[1], bias=moved[2])
        terms = position_terms(
            student, case.targets, implementation=implementation, max_bytes=case.budget(3)
        )
        term: Tensor = getattr(terms, name)
        return (pull * term).sum()

    shape = getattr(case.terms("naive"), name).shape
    pull, ways = case.normal(*shape), [case.normal(*leaf.shape) for leaf in case.leaves]
    grads = torch.autograd.grad(value(0.0), case.leaves)
    slope = sum(float((g * way).sum()) for g, way in zip(grads, ways, strict=True))
    step = 1e-5
    assert slope == pytest.approx((value(step) - value(-step)).item() / (2 * step), rel=1e-7)


@pytest.mark.parametrize("implementation", ["naive", "checkpoint"])
def test_predictions_that_exist_are_taken_too(implementation: str) -> None:
    case = Case(3, 5, 6)
    everything = slice(None)
    log_p = case.student.log_p(everything)
    student = Formed(log_p, case.student.active(everything))
    terms = position_terms(
        student, case.targets, implementation=implementation, max_bytes=case.budget(2)
    )
    found = torch.autograd.grad(case.loss(terms), case.leaves)
    assert error(found, case.results("naive")[1:]) < 1e-12


# Options


@pytest.mark.parametrize(
    ("positions", "count", "tokens", "size", "lengths"),
    [(7, 4, 100, 3, [3, 3, 1]), (6, 1, 9, 6, [6]), (5, 2, 3, 1, [1] * 5), (0, 2, 3, 4, [0])],
)
def test_chunks_are_as_long_as_the_budget_allows(
    positions: int, count: int, tokens: int, size: int, lengths: list[int]
) -> None:
    for bytes_more in (0, 12 * count * tokens - 1):
        parts = chunks(positions, count, tokens, 12 * count * tokens * size + bytes_more)
        assert [len(range(*part.indices(positions))) for part in parts] == lengths
        assert [i for part in parts for i in range(positions)[part]] == list(range(positions))


def test_a_budget_below_one_position_is_one_position() -> None:
    assert len(chunks(5, 8, 1000, 1)) == 5


def test_chunks_are_for_the_one_with_most_lambdas() -> None:
    case = Case(2, 12, 5, teachers=4)
    assert len(chunks_for(case.student, case.targets, 12 * 4 * 5 * 3)) == 4
    assert (
        len(chunks_for(case.student, replace(case.targets, teacher=case.student), 12 * 2 * 5 * 3))
        == 4
    )


def test_an_unknown_implementation_is_named() -> None:
    case = Case(1, 2, 3)
    message = "unknown loss 'triton'; there are naive, checkpoint, chunked"
    with pytest.raises(UserError, match=message):
        case.terms("triton")
