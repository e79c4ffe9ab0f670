import math

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.bits import Bits
from di4c_plugin.evaluation.coverage import Coverage
from di4c_plugin.evaluation.ngram import NGram
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts


def rows(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, (length,), generator=generator) for length in lengths]


def test_sequences_of_all_lengths_are_counted_and_scored() -> None:
    """As one at a time, with counts kept by hand: of unigrams."""
    data, samples = rows(5, 9, 5, 0), rows(3, 7, 3, seed=1)
    found = Bits(Texts(data, 4), TextOptions(ngram_order=1))(Texts(samples, 4))["bits"]
    seen = torch.cat(data).tolist()
    followers = len(set(seen))
    p = [(seen.count(k) + followers / 4) / (len(seen) + followers) for k in range(4)]
    scored = torch.cat(samples).tolist()
    assert found.value == pytest.approx(-sum(math.log2(p[k]) for k in scored) / len(scored))


def test_several_tensors_count_as_their_rows_one_by_one() -> None:
    x, y = torch.stack(rows(6, 6, 6)), torch.stack(rows(4, 4, seed=1))
    padded = NGram([x, y], num_tokens=4, order=3)
    assert torch.equal(NGram([y, x], num_tokens=4, order=3).log_prob(x), padded.log_prob(x))
    both = NGram(torch.cat([x, x]), num_tokens=4, order=3)
    assert torch.equal(NGram([x, x], num_tokens=4, order=3).log_prob(y), both.log_prob(y))


@pytest.mark.parametrize(("metric", "name"), [(Bits, "bits"), (Coverage, "coverage")])
def test_tokens_that_the_reference_never_has_are_told(
    metric: type[Bits | Coverage], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks that begin with BOS, against running text."""
    blocks = [torch.cat([torch.tensor([4]), row]) for row in rows(9, 9, 9, 9)]
    metric(Texts(blocks, 5), TextOptions())(Texts(blocks, 5))
    assert capsys.readouterr().err == ""
    metric(Texts(rows(50), 5), TextOptions())(Texts(blocks, 5))
    said = f"{name}: 10% of the samples' tokens are nowhere in the reference, most of them 4"
    assert said in capsys.readouterr().err


def test_mistakes() -> None:
    with pytest.raises(UserError, match="bits compares with real text: --reference FILE"):
        Bits(None, TextOptions())
    with pytest.raises(UserError, match="an n-gram model needs tokens"):
        Bits(Texts(rows(0), 4), TextOptions())
    metric = Bits(Texts(rows(9), 4), TextOptions())
    with pytest.raises(UserError, match="bits needs tokens"):
        metric(Texts(rows(0), 4))
    with pytest.raises(UserError, match="tokens are 0 ... 3, not 0 ... 7"):
        metric(Texts([torch.tensor([0, 7])], 8))
