"""One lambda at a time is all of them at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.losses.chunk import ChunkTargets, chunk_targets, chunk_terms
from di4c_plugin.losses.streamed import LogMean, streamed
from di4c_plugin.losses.terms import PositionTerms
from tests.losses.cases import Case, error, tensors, with_gradients

ALL = slice(None)


class Student:
    """One lambda of a case; counts its calls."""

    def __init__(self, case: Case, n: int) -> None:
        self.case, self.n = case, n
        self.modes: list[bool] = []

    def __call__(self) -> Tensor:
        self.modes.append(torch.is_grad_enabled())
        log_p: Tensor = self.case.student.log_p(ALL)[self.n]
        return log_p


def students(case: Case) -> list[Student]:
    return [Student(case, n) for n in range(case.shape[0])]


def terms_of(case: Case, calls: list[Student]) -> PositionTerms:
    active, of = case.student.active(ALL), chunk_targets(case.targets, ALL)
    return PositionTerms(*streamed(calls, active, of))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("p", [0, 1, 7])
@pytest.mark.parametrize("s", [2, 31, 1025])
@pytest.mark.parametrize("target", [True, False], ids=["target", "no target"])
def test_loss_and_gradients_are_those_of_the_naive_one(
    n: int, p: int, s: int, target: bool
) -> None:
    case = Case(n, p, s, target=target, teachers=2, revealed=0.3 if p > 1 else 0)
    terms = terms_of(case, students(case))
    assert error(tensors(terms), tensors(case.terms("naive"))) < 1e-12
    if p:
        found = with_gradients(case.loss(terms), case.leaves)
        assert error(found, case.results("naive")) < 1e-12


def test_each_student_is_called_once_a_pass() -> None:
    case = Case(4, 5, 6)
    calls = students(case)
    terms = terms_of(case, calls)
    assert [len(one.modes) for one in calls] == [1] * 4
    case.loss(terms).backward()
    assert [len(one.modes) for one in calls] == [2] * 4
    assert all(one.modes[1] for one in calls), "the second pass is the one with gradients"


def test_without_gradients_there_is_no_second_pass() -> None:
    case = Case(2, 5, 6)
    calls = students(case)
    with torch.no_grad():
        found = terms_of(case, calls)
    assert error(tensors(found), tensors(case.terms("naive"))) < 1e-12
    assert [one.modes for one in calls] == [[False]] * 2


@pytest.mark.parametrize("name", ["distil", "data_marg", "consis_marg", "ell_data"])
def test_a_term_by_itself(name: str) -> None:
    case = Case(3, 5, 6)
    found, want = (
        torch.autograd.grad(getattr(terms, name).sum(), case.leaves)
        for terms in (terms_of(case, students(case)), case.terms("naive"))
    )
    assert error(found, want) < 1e-12


class Dropping:
    """Students through one dropout layer; it remembers what it kept."""

    def __init__(self, case: Case) -> None:
        self.case, self.dropout = case, nn.Dropout(0.4)
        self.kept: dict[int, list[Tensor]] = {}

    def student(self, n: int) -> Callable[[], Tensor]:
        def call() -> Tensor:
            kept = self.dropout(torch.ones_like(self.case.student.h[n]))
            self.kept.setdefault(n, []).append(kept)
            return self.log_p(n, kept)

        return call

    def log_p(self, n: int, kept: Tensor) -> Tensor:
        student = self.case.student
        logits = nn.functional.linear(student.h[n] * kept, student.weight, student.bias)
        return logits.log_softmax(-1)


def test_dropout_is_the_same_in_both_passes() -> None:
    case = Case(3, 5, 6, target=False)
    torch.manual_seed(0)
    dropping, active = Dropping(case), case.student.active(ALL)
    of: ChunkTargets = chunk_targets(case.targets, ALL)
    found = PositionTerms(*streamed([dropping.student(n) for n in range(3)], active, of))
    # What others draw in between does not matter.
    torch.rand(7)
    results = with_gradients(case.loss(found), case.leaves)
    first = [kept[0] for _, kept in sorted(dropping.kept.items())]
    for kept in dropping.kept.values():
        one, other = kept
        assert torch.equal(one, other)
        assert 0 < int((one == 0).sum()) < one.numel()
    assert not torch.equal(first[0], first[1])
    log_p = torch.stack([dropping.log_p(n, kept) for n, kept in enumerate(first)])
    want = PositionTerms(*chunk_terms(log_p, active, of))
    assert error(results, with_gradients(case.loss(want), case.leaves)) < 1e-12


def test_the_mean_of_predictions_one_after_the_other() -> None:
    log_p = torch.randn(5, 4, 3).double().log_softmax(-1)
    mean = LogMean()
    for one in log_p:
        mean.add(one)
    torch.testing.assert_close(mean.value.exp(), log_p.exp().mean(0))
    mean.closed = True
    mean.add(log_p[0])
    torch.testing.assert_close(mean.value.exp(), log_p.exp().mean(0))
