import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts
from di4c_plugin.evaluation.variety import DistinctN, SelfBLEU, shared_prefix


def samples(*rows: list[int]) -> Texts:
    return Texts([torch.tensor(row) for row in rows], 100)


def test_distinct_n_by_hand() -> None:
    found = DistinctN(None, TextOptions())(samples([1, 2, 1, 2], [1, 2, 3]))
    # 1 2 3 of seven; 12 21 23 of five; 121 212 123 of three.
    values = [found[f"distinct_{n}"].value for n in (1, 2, 3)]
    assert values == [pytest.approx(3 / 7), pytest.approx(3 / 5), pytest.approx(1)]
    with pytest.raises(UserError, match="no sample has 3 tokens"):
        DistinctN(None, TextOptions())(samples([1, 2]))


def self_bleu(*rows: list[int]) -> float:
    return SelfBLEU(None, TextOptions())(samples(*rows))["self_bleu"].value


def test_self_bleu_of_equal_and_of_disjoint_samples() -> None:
    assert self_bleu([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [7, 2, 3, 4, 5]) < 1
    assert self_bleu([0, 2, 3, 4, 5], [1, 2, 3, 4, 5], [0, 2, 3, 4, 5]) > 0.7
    assert self_bleu([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == 0


def test_samples_that_have_collapsed_to_one_are_alike() -> None:
    """What they share is no prompt where too little is left to have 4-grams."""
    assert self_bleu([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == pytest.approx(1)
    assert self_bleu([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 6]) > 0.7


def test_self_bleu_by_hand() -> None:
    """The first two share four of five words: precisions 4/5, 3/4, 2/3, 1/2; the third has none."""
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    found = self_bleu([1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [20, 21, 22, 23, 24])
    assert found == pytest.approx(2 * expected / 3, rel=1e-5)


def test_what_all_samples_begin_with_is_left_out() -> None:
    rows = [[1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [20, 21, 22, 23, 24]]
    prompted = [[50, 51, 52, 53, 54, *row] for row in rows]
    assert self_bleu(*prompted) == pytest.approx(self_bleu(*rows))
    assert shared_prefix(samples(*prompted).tokens) == 5
    assert shared_prefix(samples([1, 2], [1, 2]).tokens) == 2


def test_one_sample_has_no_self_bleu() -> None:
    with pytest.raises(UserError, match="draw at least 2"):
        self_bleu([1, 2, 3])
