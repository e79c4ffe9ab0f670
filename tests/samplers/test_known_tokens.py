from typing import Any

import pytest
import torch

from di4c_plugin.diffusion import Absorbing, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.samplers.known import known_tokens

PROCESS = Absorbing(5, mask=2)
INSIDE_ITSELF: list[Any] = []
INSIDE_ITSELF.append(INSIDE_ITSELF)


def test_nothing_given_is_none() -> None:
    assert known_tokens(None, None, 3, 4, PROCESS) is None


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_a_prefix_serves_one_sample_or_all(kind: Any) -> None:
    one = known_tokens(kind([1, 3]), None, 3, 4, PROCESS)
    assert one is not None
    assert one[0].tolist() == [[1, 3, 0, 0]]
    assert one[1].tolist() == [[True, True, False, False]]
    each = known_tokens(kind([[1], [3], [4]]), None, 3, 4, PROCESS)
    assert each is not None
    assert each[0][:, 0].tolist() == [1, 3, 4]


def test_known_rows_are_spread_over_the_other() -> None:
    tokens, mask = [[0, 1, 3, 4], [1, 1, 1, 1]], [True, False, False, True]
    given = known_tokens(None, (tokens, mask), 2, 4, PROCESS)
    assert given is not None
    assert given[0].tolist() == tokens
    assert given[1].tolist() == [mask] * 2
    given = known_tokens(None, (tokens[0], [mask, mask[::-1]]), 2, 4, PROCESS)
    assert given is not None
    assert given[0].shape == given[1].shape == (2, 4)


def test_what_is_not_known_may_be_anything() -> None:
    assert known_tokens(None, ([1, 2, 99, -1], [1, 0, 0, 0]), 1, 4, PROCESS) is not None


@pytest.mark.parametrize(
    ("prefix", "known", "message"),
    [
        ([1], ([1] * 4, [1] * 4), "prefix and known exclude each other"),
        ([1, 2], None, "2 is no token of this model: 0 ... 4 without the mask 2"),
        ([5], None, "5 is no token of this model"),
        ([-1], None, "-1 is no token"),
        ([0.5], None, "given tokens must be whole numbers"),
        ([], None, "given tokens must be whole numbers"),
        (torch.zeros(1, 1, 1).long(), None, "given tokens must be whole numbers"),
        ([1, 1, 1, 1], None, "a prefix of 4 tokens does not fit 4 positions"),
        ([[1], [1]], None, "3 samples take 1 or 3 rows of given tokens, not 2"),
        ([[1, 1], [1]], None, "given tokens must be numbers in rows"),
        ([None], None, "given tokens must be numbers in rows"),
        (object(), None, "given tokens must be numbers in rows"),
        (INSIDE_ITSELF, None, "given tokens must be numbers in rows"),
        (torch.ones(2).long().to("meta"), None, "given tokens must be numbers in rows"),
        (torch.ones(2).long().to_sparse(), None, "given tokens must be numbers in rows"),
        (None, ([1] * 4, [None] * 4), "given tokens must be numbers in rows"),
        (None, ([1] * 4, torch.ones(4).to("meta")), "given tokens must be numbers in rows"),
        ([True, False], None, "given tokens must be whole numbers"),
        (None, ([1] * 4, [0.5, 0, 0, 0]), "the mask of known tokens must be bools"),
        (None, ([1] * 4, [2, 0, 0, 0]), "the mask of known tokens must be bools"),
        (["a"], None, r"token ids are wanted, not text: \['a'\] goes through a tokenizer"),
        ("import ", None, "token ids are wanted, not text: 'import ' goes"),
        ([["a", "b"]], None, "token ids are wanted, not text: "),
        (None, ("abcd", [1] * 4), "token ids are wanted, not text: 'abcd'"),
        (None, ([1] * 4, "yes"), "token ids are wanted, not text: 'yes'"),
        (None, ([1] * 4, 1), "the mask of known tokens must be"),
        (None, ([1] * 4, [[1, 0], [1]]), "given tokens must be numbers in rows"),
        (None, ([1, 1], [1, 0]), "known tokens and their mask must have 4 positions each"),
        (None, ([1] * 4, [1, 0]), "known tokens and their mask must have 4 positions each"),
    ],
)
def test_what_does_not_fit_is_told(prefix: Any, known: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        known_tokens(prefix, known, 3, 4, PROCESS)


def test_without_a_mask_every_token_may_be_given() -> None:
    assert known_tokens([4], None, 1, 4, Uniform(5)) is not None
    with pytest.raises(UserError, match="^5 is no token of this model: 0 ... 4$"):
        known_tokens([5], None, 1, 4, Uniform(5))


def test_rows_that_cannot_be_spread_are_told() -> None:
    with pytest.raises(UserError, match="rows"):
        known_tokens(None, (torch.ones(2, 4).long(), torch.ones(3, 4)), 3, 4, PROCESS)
