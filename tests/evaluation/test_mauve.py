import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.mauve import Mauve
from di4c_plugin.evaluation.scorer import Scorer, load_tokenizer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts
from tests.evaluation.tiny_lm import texts


def read(lm: Path, strings: list[str]) -> Texts:
    tokenizer = load_tokenizer(str(lm))
    return Texts(tokenizer.encode(strings), len(tokenizer), strings)


def uneven(n: int, seed: int) -> list[str]:
    return [text[: 4 + k % 9] for k, text in enumerate(texts(n, seed))]


def test_it_is_what_mauve_text_says(lm: Path) -> None:
    """Features and divergence by the package's own functions, called by hand."""
    mauve = pytest.importorskip("mauve")
    ours, theirs = uneven(44, 0), [text.replace("a", "b") for text in uneven(40, 1)]
    options = TextOptions(Scorer(str(lm), batch_size=7), mauve_buckets=5)
    found = Mauve(read(lm, theirs), options)(read(lm, ours))["mauve"]
    model = import_module("transformers").AutoModel.from_pretrained(lm).eval()
    tokenizer = load_tokenizer(str(lm))
    features = [
        import_module("mauve.utils").featurize_tokens_from_model(
            model, tokenizer.encode(strings), 3
        )
        for strings in ([ours[k * 44 // 40] for k in range(40)], theirs)
    ]
    expected = mauve.compute_mauve(
        p_features=features[0].numpy(), q_features=features[1].numpy(), num_buckets=5
    )
    assert found.value == pytest.approx(expected.mauve, rel=1e-5)
    assert found.n == 40


def test_too_few_texts_and_no_library_are_refused(
    lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(str(lm))
    options = TextOptions(scorer)
    pytest.importorskip("mauve")
    with pytest.raises(UserError, match="mauve takes at least 20 texts, not 19 of the reference"):
        Mauve(read(lm, texts(19, 0)), options)
    metric = Mauve(read(lm, texts(20, 0)), options)
    with pytest.raises(UserError, match="mauve takes at least 20 texts, not 5 of the samples"):
        metric(read(lm, texts(5, 0)))
    many = Mauve(read(lm, texts(20, 0)), TextOptions(scorer, mauve_buckets=21))
    with pytest.raises(UserError, match="--mauve-buckets is from 2 to the 20 samples"):
        many(read(lm, texts(30, 1)))
    with pytest.raises(UserError, match="mauve compares with real text: --reference"):
        Mauve(None, options)
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match=r"mauve needs mauve-text: pip install 'di4c_plugin\[text"):
        Mauve(read(lm, texts(20, 0)), options)


def test_another_model_may_give_the_features(lm: Path) -> None:
    pytest.importorskip("mauve")
    scorer = Scorer(str(lm))
    metric = Mauve(read(lm, texts(20, 0)), TextOptions(None, scorer))
    assert metric(read(lm, texts(20, 0)))["mauve"].value == pytest.approx(1, abs=1e-3)
    with pytest.raises(UserError, match="mauve needs a language model"):
        Mauve(read(lm, texts(20, 0)), TextOptions())


def test_a_reference_that_is_cut_otherwise_is_told(
    lm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples of MDLM end in the end of text, and pieces of running text do not."""
    pytest.importorskip("mauve")
    scorer = Scorer(str(lm))
    assert scorer.end is not None
    running = read(lm, texts(20, 0))
    blocks = [torch.cat([row, torch.tensor([scorer.end])]) for row in running.tokens]
    samples = Texts(blocks, running.num_tokens)
    Mauve(samples, TextOptions(scorer))(samples)
    assert "last token" not in capsys.readouterr().err
    Mauve(running, TextOptions(scorer))(samples)
    assert "end of text in 100% of the samples and 5% of the ref" in capsys.readouterr().err
