import json
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.gen_ppl import GenPPL, counted
from di4c_plugin.evaluation.scorer import Scorer, load_tokenizer
from di4c_plugin.evaluation.text_metric import TextOptions
from di4c_plugin.evaluation.texts import Texts, of_tokens
from tests.evaluation.tiny_lm import END, TOKENS, texts, write_lm

ENDS = TOKENS.index(END)


def by_transformers(folder: Path, rows: list[torch.Tensor]) -> float:
    """exp of the mean loss, by transformers' own loss, a sequence at a time."""
    model = import_module("transformers").AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            loss = model(input_ids=row[None], labels=row[None]).loss
        total, count = total + float(loss) * (len(row) - 1), count + len(row) - 1
    return math.exp(total / count)


def measured(folder: Path, samples: Texts, *, after_end: str = "keep", batch: int = 4) -> float:
    options = TextOptions(Scorer(str(folder), batch_size=batch), after_end=after_end)
    return GenPPL(None, options)(samples)["gen_ppl"].value


def test_texts_of_all_lengths_are_scored_as_by_transformers(lm: Path) -> None:
    tokenizer = load_tokenizer(str(lm))
    strings = [text[: 3 + k] for k, text in enumerate(texts(7, 0))]
    rows = tokenizer.encode(strings)
    samples = Texts(rows, len(tokenizer), strings)
    # Seven texts in batches of three: the last batch holds one.
    assert measured(lm, samples, batch=3) == pytest.approx(by_transformers(lm, rows), rel=1e-5)


def test_tokens_are_scored_as_they_are_without_a_tokenizer(lm: Path) -> None:
    x = torch.randint(len(TOKENS), (5, 9), generator=torch.Generator().manual_seed(1))
    samples = of_tokens(x, len(TOKENS), None)
    assert samples.strings is None
    assert measured(lm, samples) == pytest.approx(by_transformers(lm, list(x)), rel=1e-5)


def test_tokens_of_another_vocabulary_are_refused(lm: Path) -> None:
    samples = of_tokens(torch.zeros(5, 9, dtype=torch.long), len(TOKENS) + 1, None)
    with pytest.raises(UserError, match="samples are of 11 tokens and scorer .* has 10: it is of"):
        measured(lm, samples)


def test_texts_longer_than_the_context_are_cut(tmp_path: Path) -> None:
    short = write_lm(tmp_path, context=6)
    tokenizer = load_tokenizer(str(short))
    strings = texts(4, 2)
    rows = tokenizer.encode(strings)
    expected = by_transformers(short, [row[:6] for row in rows])
    assert measured(short, Texts(rows, 10, strings)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("after_end", "expected"),
    [("keep", "111111"), ("hosts", "111011"), ("cut", "110000")],
)
def test_what_counts_after_the_first_end_of_text(after_end: str, expected: str) -> None:
    row = torch.tensor([0, 1, ENDS, 2, ENDS, 3, 4])
    assert "".join(str(int(k)) for k in counted(row, ENDS, after_end)) == expected
    assert counted(row, None, after_end).all()


def test_an_end_at_the_start_is_the_first(lm: Path) -> None:
    row = torch.tensor([ENDS, 1, ENDS, 2])
    assert counted(row, ENDS, "hosts").tolist() == [True, False, True]
    assert not counted(row, ENDS, "cut").any()
    with pytest.raises(UserError, match="gen_ppl has no token to score"):
        measured(lm, Texts([row], 10), after_end="cut")


def test_the_standard_error_is_that_of_repetition(lm: Path) -> None:
    """Over many sets of samples, values scatter as the errors say."""
    scorer = Scorer(str(lm), batch_size=200)
    metric = GenPPL(None, TextOptions(scorer, after_end="hosts"))
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(60):
        # Sequences of very different kinds, or every set would have nearly one value.
        x = torch.randint(10, (40, 12), generator=generator)
        x[torch.rand(40, generator=generator) < 0.5] = 3
        found.append(metric(of_tokens(x, 10, None))["gen_ppl"])
    scatter = float(torch.tensor([f.value for f in found]).std())
    claimed = sum(f.error or 0 for f in found) / len(found)
    assert claimed == pytest.approx(scatter, rel=0.3)


def test_mistakes(lm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gen_ppl needs a language model: --scorer"):
        GenPPL(None, TextOptions())
    with pytest.raises(UserError, match="no such folder of a causal language model: /nowhere"):
        Scorer("/nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is no causal language model that can be read"):
        Scorer(str(tmp_path))
    with pytest.raises(UserError, match="--after-end takes hosts, keep, cut, not 'stop'"):
        GenPPL(None, TextOptions(Scorer(str(lm)), after_end="stop"))
    with pytest.raises(UserError, match="a scorer computes in float32, bfloat16, float16, not"):
        Scorer(str(lm), dtype="int8")


def test_pickled_weights_are_not_read(lm: Path, tmp_path: Path) -> None:
    model = import_module("transformers").AutoModelForCausalLM.from_pretrained(lm)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((lm / name).read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="is no causal language model that can be read"):
        Scorer(str(tmp_path))


def test_a_folders_code_is_not_even_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers asks on stdin, and what a script pipes in there may begin with a y."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own"}))
    own = {"auto_map": {"AutoTokenizer": ["tok.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
    (tmp_path / "tok.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n")
    with pytest.raises(UserError, match="is no tokenizer that can be read"):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "ran").exists()
