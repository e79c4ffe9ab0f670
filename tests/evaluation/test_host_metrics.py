"""gen_ppl and entropy against Duo's own code, on the same samples and scorer."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.evaluation.entropy import Entropy
from di4c_plugin.evaluation.gen_ppl import GenPPL
from di4c_plugin.evaluation.scorer import Scorer, load_tokenizer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts
from tests.conftest import host_named
from tests.evaluation.tiny_lm import texts

pytestmark = pytest.mark.host
BATCH, LENGTH = 4, 12


@pytest.fixture(scope="module")
def duo(repository: Path) -> Any:
    """The host's module metrics.py; MDLM's gen-PPL is the same code inside its own class."""
    root = repository / "external/duo"
    if not host_named("duo").is_at(root):
        pytest.skip("external/duo is empty: git submodule update --init")
    spec = importlib.util.spec_from_file_location("duo_metrics", root / "metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_host(duo: Any, lm: Path, strings: list[str]) -> tuple[float, float]:
    metrics = duo.Metrics(str(lm), BATCH)
    tokens = load_tokenizer(str(lm)).encode(strings)
    metrics.record_entropy(tokens)
    metrics.record_generative_perplexity(strings, LENGTH, device="cpu")
    return float(metrics.gen_ppl.compute()), float(metrics.sample_entropy.compute())


def by_us(lm: Path, strings: list[str]) -> tuple[float, float]:
    tokens = load_tokenizer(str(lm)).encode(strings)
    samples = Texts(tokens, 10, strings, LENGTH)
    options = TextOptions(Scorer(str(lm), batch_size=3))
    found = GenPPL(None, options)(samples) | Entropy(None, options)(samples)
    return found["gen_ppl"].value, found["entropy"].value


def test_equal_where_batches_are_full_and_no_text_is_padded(duo: Any, lm: Path) -> None:
    strings = texts(8, 0, LENGTH)
    assert any(text.count(".") > 1 for text in strings)  # several ends of text
    assert by_us(lm, strings) == pytest.approx(by_host(duo, lm, strings), rel=1e-5)


def test_the_host_leaves_out_the_last_batch_where_it_is_not_full(duo: Any, lm: Path) -> None:
    strings = texts(11, 0, LENGTH)
    host = by_host(duo, lm, strings)
    ours, entropy = by_us(lm, strings)
    assert entropy == pytest.approx(host[1], rel=1e-5)
    assert ours != pytest.approx(host[0], rel=1e-3)
    assert by_us(lm, strings[:8])[0] == pytest.approx(host[0], rel=1e-5)


def test_the_host_counts_the_first_token_of_padding(duo: Any, lm: Path) -> None:
    """Padded by the end of text, a text without one seems to end where its padding begins."""
    strings = [text.replace(".", "a")[: LENGTH - k] for k, text in enumerate(texts(4, 0, LENGTH))]
    host, ours = by_host(duo, lm, strings)[0], by_us(lm, strings)[0]
    assert ours != pytest.approx(host, rel=1e-3)
    ended = [strings[0], *(text + "." for text in strings[1:])]
    assert by_us(lm, ended)[0] == pytest.approx(host, rel=1e-5)
