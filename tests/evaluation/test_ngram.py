import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.ngram import NGram

S = 3
START = "^"


def tokens(n: int, seed: int, width: int = 4) -> Tensor:
    """Rows in which a token tends to follow its predecessor in the alphabet."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(3, (n, width), generator=generator).clamp(max=1)
    return steps.cumsum(1) % S


def bits_of(model: NGram, x: Tensor) -> float:
    return -float(model.log_prob(x).mean()) / math.log(2)


def by_hand(text: Tensor, history: tuple[object, ...], token: int) -> float:
    """Witten-Bell's p(token | history), read off the text with nothing but a counter."""
    shorter = by_hand(text, history[1:], token) if history else 1 / S
    seen = Counter(
        row[i]
        for row in ([START] * len(history) + row for row in text.tolist())
        for i in range(len(history), len(row))
        if tuple(row[i - len(history) : i]) == history
    )
    total, followers = sum(seen.values()), len(seen)
    return (seen[token] + followers * shorter) / (total + followers) if total else shorter


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 9])
def test_it_is_witten_bell_counted_by_hand(order: int, n: int) -> None:
    text, samples = tokens(n, 0), torch.tensor([*itertools.product(range(S), repeat=4)])
    expected = []
    for row in samples.tolist():
        padded = [START] * (order - 1) + row
        histories = [tuple(padded[i : i + order - 1]) for i in range(len(row))]
        steps = zip(histories, row, strict=True)
        expected.append([by_hand(text, history, token) for history, token in steps])
    p = NGram(text, num_tokens=S, order=order).log_prob(samples).exp()
    torch.testing.assert_close(p, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_sequences_of_every_length_sum_to_one(order: int) -> None:
    model = NGram(tokens(9, 0, width=6), num_tokens=S, order=order)
    for width in (1, 2, 5):
        every = torch.tensor([*itertools.product(range(S), repeat=width)])
        total = model.log_prob(every).sum(1).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-12)


def test_bits_are_the_mean_over_the_characters() -> None:
    # c(0) = 3, c(1) = 1, T = 2: p(0) = (3 + 2/4) / 6, p(1) = (1 + 2/4) / 6, p(2) = p(3) = 1/12.
    model = NGram(torch.tensor([[0, 0], [1, 0]]), num_tokens=4, order=1)
    bits = bits_of(model, torch.tensor([[0, 1], [0, 3]]))
    expected = -(2 * math.log2(3.5 / 6) + math.log2(1.5 / 6) + math.log2(1 / 12)) / 4
    assert bits == pytest.approx(expected, rel=1e-12)


def test_text_like_the_held_out_text_takes_fewer_bits_than_noise() -> None:
    model = NGram(tokens(200, 0, width=20), num_tokens=S, order=3)
    noise = torch.randint(S, (200, 20), generator=torch.Generator().manual_seed(2))
    like = bits_of(model, tokens(200, 1, width=20))
    # A step of 0 or 1 with chances 1/3 and 2/3 has 0.918 bits.
    assert like == pytest.approx(0.918, abs=0.02)
    assert bits_of(model, noise) > 2


def test_longer_contexts_help_where_the_text_has_them() -> None:
    # The token before last decides.
    text = torch.tensor([[0, 0, 1, 1] * 8, [1, 0, 0, 1] * 8])
    bits = [bits_of(NGram(text, num_tokens=2, order=k), text) for k in (1, 2, 3)]
    assert bits[0] == pytest.approx(1, abs=0.01)
    assert bits[1] > 0.9
    assert bits[2] < 0.3


@pytest.mark.parametrize(
    ("x", "order", "message"),
    [
        (torch.tensor([[0, 3]]), 2, r"^tokens are 0 ... 2, not 0 ... 3$"),
        (torch.tensor([[0, -1]]), 2, r"not -1 ... 0$"),
        (torch.zeros(4, dtype=torch.long), 2, r"needs tokens \(n, D\), not \(4,\)$"),
        (torch.zeros(0, 4, dtype=torch.long), 2, r"not \(0, 4\)$"),
        (tokens(2, 0), 0, r"cannot be of order 0$"),
        (tokens(2, 0), 32, r"cannot be of order 32$"),
    ],
)
def test_what_cannot_be_counted_is_refused(x: Tensor, order: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        NGram(x, num_tokens=S, order=order)


def test_the_largest_order_with_a_code_still_counts() -> None:
    text = tokens(5, 0, width=40)
    p = NGram(text, num_tokens=S, order=31).log_prob(text)
    assert torch.isfinite(p).all()
    assert (p <= 0).all()


def test_samples_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"not 0 ... 3$"):
        NGram(tokens(2, 0), num_tokens=S).log_prob(torch.tensor([[0, 3]]))
