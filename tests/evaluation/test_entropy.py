import math
from collections import Counter

import pytest
import torch
from scipy.stats import entropy

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.entropy import Entropy, sample_entropy
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts


def test_the_entropy_is_scipys_of_each_samples_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(7, (5, 12), generator=generator) * 1000
    expected = [float(entropy([*Counter(row).values()])) for row in x.tolist()]
    assert sample_entropy(x) == pytest.approx(sum(expected) / 5, rel=1e-12)


def test_the_entropy_of_repetition_is_zero_and_of_all_tokens_once_their_logarithm() -> None:
    assert sample_entropy(torch.tensor([[3, 3, 3], [5, 5, 5]])) == 0
    assert sample_entropy(torch.arange(8).view(1, 8)) == pytest.approx(math.log(8))


def test_the_entropy_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"not \(0, 3\)$"):
        sample_entropy(torch.zeros(0, 3, dtype=torch.long))


def test_sequences_of_all_lengths_count_alike() -> None:
    rows = [torch.tensor(row) for row in ([1, 1], [1, 2, 3, 4], [5, 6], [])]
    found = Entropy(None, TextOptions())(Texts([row.long() for row in rows], 9))["entropy"]
    assert found.value == pytest.approx((0 + math.log(4) + math.log(2)) / 3)
    assert found.n == 3
    with pytest.raises(UserError, match="the entropy of samples needs tokens"):
        Entropy(None, TextOptions())(Texts([rows[3].long()], 9))
