import math
from collections import Counter

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.coverage import Coverage
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts


def rows(*texts: str) -> Texts:
    return Texts([torch.tensor([int(c) for c in text]) for text in texts], 3)


def coverage(samples: Texts, real: Texts) -> float:
    return Coverage(real, TextOptions())(samples)["coverage"].value


def by_hand(samples: list[str], history: str, token: str) -> float:
    """Witten-Bell's p(token | history), counted in the padded samples."""
    shorter = by_hand(samples, history[1:], token) if history else 1 / 3
    padded = ["^" * len(history) + text for text in samples]
    places = [(t, i) for t in padded for i in range(len(history), len(t))]
    seen = Counter(t[i] for t, i in places if t[i - len(history) : i] == history)
    total = sum(seen.values())
    return (seen[token] + len(seen) * shorter) / (total + len(seen)) if total else shorter


def test_it_is_real_text_under_trigrams_of_the_samples() -> None:
    samples, real = ["0121", "012", "2201"], ["01", "2210", "121"]
    places = [("^^" + text, i) for text in real for i in range(len(text))]
    p = [by_hand(samples, text[i : i + 2], text[i + 2]) for text, i in places]
    expected = -sum(map(math.log2, p)) / len(p)
    assert coverage(rows(*samples), rows(*real)) == pytest.approx(expected, rel=1e-12)


def test_samples_that_repeat_one_another_cover_less() -> None:
    real = Texts(list(torch.randint(3, (200, 6), generator=torch.Generator().manual_seed(0))), 3)
    fresh = Texts(list(torch.randint(3, (60, 6), generator=torch.Generator().manual_seed(1))), 3)
    same = Texts([fresh.tokens[0]] * 60, 3)
    assert coverage(same, real) > coverage(fresh, real) + 0.5


def test_mistakes() -> None:
    with pytest.raises(UserError, match="coverage compares with real text: --reference FILE"):
        Coverage(None, TextOptions())
    empty = Texts([torch.zeros(0, dtype=torch.int64)], 3)
    for samples, real in ((empty, rows("0")), (rows("0"), empty)):
        with pytest.raises(UserError, match="coverage needs tokens"):
            coverage(samples, real)
