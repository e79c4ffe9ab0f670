"""Another tokenizer of the same size is found wherever two models, or model and program, meet."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Fast
from tokenizers.models import BPE, Unigram, WordLevel
from transformers import PreTrainedTokenizerFast

from di4c_plugin.algorithms.base import Data
from di4c_plugin.api import LoadedModel, distill, load_student, load_teacher, sample, save_student
from di4c_plugin.checkpoints.model import with_info
from di4c_plugin.checkpoints.vocabulary import (
    Tokenizer,
    Vocabulary,
    entry_of,
    live_tokenizer,
    vocabulary_in,
)
from di4c_plugin.checkpoints.weights import read_weights
from di4c_plugin.errors import UserError
from tests.stand_ins.dit_files import HUB_CONFIG, in_module, lightning, state
from tests.stand_ins.dit_files import tokenizer as saved_tokenizer

ABSORBING = {"num_tokens": 7, "mask": 6}
WORDS = ["a", "b", "c", "d", "e", "f"]
IDS = {word: i for i, word in enumerate(WORDS)}


def fast(model: Any, **special: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=Fast(model), unk_token="a", **special)  # type: ignore[no-untyped-call]


MODELS: dict[str, Any] = {
    "words": lambda: WordLevel(IDS, unk_token="a"),
    "pairs": lambda: BPE(IDS, [], unk_token="a"),
    "unigram": lambda: Unigram([(word, -1.0) for word in WORDS], unk_id=0),
}


def test_the_fingerprint_is_of_sorted_pairs_without_the_mask() -> None:
    text = "".join(f"{word}\0{i}\n" for i, word in enumerate(WORDS))
    wanted = Vocabulary("gpt2", 6, hashlib.sha256(text.encode()).hexdigest())
    assert Tokenizer("gpt2", IDS).vocabulary(ABSORBING) == wanted
    assert Tokenizer("gpt2", dict(reversed(IDS.items()))).vocabulary(ABSORBING) == wanted
    # MDLM and Duo add a padding token, whose id is the mask's; others may lie beyond it.
    padded = IDS | {"[PAD]": 6, "[CLS]": 7, "odd": -1}
    assert Tokenizer("gpt2", padded).vocabulary(ABSORBING) == wanted
    assert Tokenizer("gpt2", padded).vocabulary({"num_tokens": 7}) != wanted  # uniform: no mask
    assert Tokenizer("gpt2").vocabulary(ABSORBING) is None


@pytest.mark.parametrize("ids", [IDS | {"a": 1, "b": 0}, {**IDS, "ä": 5}, {"ab": 0, "c": 1}])
def test_other_tokens_have_another_fingerprint(ids: dict[str, int]) -> None:
    first, other = (Tokenizer("x", each).vocabulary(ABSORBING) for each in (IDS, ids))
    assert first is not None
    assert other is not None
    with pytest.raises(UserError, match=r"^one has the tokenizer x \(6 tokens, sha256 .*\), two h"):
        first.check(other, "one", "two")


@pytest.mark.parametrize("kind", MODELS)
def test_a_pickled_tokenizer_has_the_vocabulary_of_the_live_one(kind: str, tmp_path: Path) -> None:
    live = fast(MODELS[kind]())
    live.add_special_tokens({"pad_token": "[PAD]"})
    path = lightning(tmp_path / "x.ckpt", "mdlm", state())
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["tokenizer"] = live
    torch.save(content, path)
    said = live_tokenizer(live)
    assert said is not None
    assert dict(said.ids) == IDS | {"[PAD]": 6}
    found = read_weights(path).vocabulary(ABSORBING)
    assert found is not None
    assert found.sha256 == said.vocabulary(ABSORBING).sha256  # type: ignore[union-attr]


class Text8:
    """As MDLM's."""

    name_or_path = ""

    def __init__(self) -> None:
        self._vocab_str_to_int = IDS

    def get_vocab(self) -> dict[str, int]:
        return self._vocab_str_to_int


def test_a_slow_tokenizer_too(tmp_path: Path) -> None:
    path = lightning(tmp_path / "x.ckpt", "mdlm", state())
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["tokenizer"] = Text8()
    torch.save(content, path)
    live = live_tokenizer(Text8())
    assert live is not None
    assert read_weights(path).vocabulary(ABSORBING) == live.vocabulary(ABSORBING)
    assert live.name == "Text8"
    assert live_tokenizer(object()) is None


def test_a_folder_may_have_its_tokenizer(tmp_path: Path) -> None:
    save_file(in_module(state()), tmp_path / "model.safetensors")
    config = HUB_CONFIG | {"tokenizer": {"name": "/home/somebody/words"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = read_weights(tmp_path)
    assert weights.vocabulary(ABSORBING) is None
    assert weights.tokenizer == Tokenizer("words")
    fast(MODELS["words"]()).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    wanted = Tokenizer("words", IDS).vocabulary(ABSORBING)
    assert read_weights(tmp_path).vocabulary(ABSORBING) == wanted
    assert wanted is not None
    assert load_teacher(tmp_path).info["vocabulary"] == asdict(wanted)
    for text in ("{", '{"model": 3}', '{"model": {"vocab": {"a": "b"}}}', "[" * 10**5, '"\\ud800"'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert read_weights(tmp_path).vocabulary(ABSORBING) is None


# ---- where two meet without a host


def teacher(folder: Path, tokenizer: Any = None, name: str = "x.ckpt") -> LoadedModel:
    path = lightning(folder / name, "mdlm", state())
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["tokenizer"] = tokenizer or saved_tokenizer()
    torch.save(content, path)
    return load_teacher(path)


def test_it_is_kept_from_teacher_to_student_to_files(tmp_path: Path) -> None:
    model = teacher(tmp_path)
    said = vocabulary_in(model.info, "")
    assert said is not None
    data = Data(torch.randint(6, (8, 6)))
    settings = {"steps": 1, "batch_size": 2}
    student = distill(model, data, training=settings, out=tmp_path / "run", progress=False)
    assert vocabulary_in(student.info, "") == said
    assert vocabulary_in(load_student(tmp_path / "run/student.safetensors").info, "") == said
    save_student(student, tmp_path / "hub")
    assert vocabulary_in(load_student(tmp_path / "hub").info, "") == said
    assert read_weights(tmp_path / "hub").vocabulary(ABSORBING) == said
    assert str(said) in (tmp_path / "hub/README.md").read_text()


def test_a_teacher_with_other_tokens_draws_no_last_steps_and_starts_no_student(
    tmp_path: Path,
) -> None:
    model = teacher(tmp_path)
    words = {word: i for i, word in enumerate(reversed(WORDS))}
    other = teacher(tmp_path, fast(WordLevel(words, unk_token="a")), "other.ckpt")
    both = r"has the tokenizer .*\(6 tokens, sha256 .*, .* has .*\(6 tokens, sha256 .*: the same nu"
    with pytest.raises(UserError, match=f"^this model {both}[^\n]*$"):
        sample(model, 2, steps=2, sampler="hybrid", teacher=other, teacher_steps=1)
    with pytest.raises(UserError, match=f"^the teacher {both}[^\n]*$"):
        distill(model, Data(torch.randint(6, (8, 6))), start=other, algo={"name": "sdtt"})
    unknown = with_info(model, vocabulary=None)
    assert sample(unknown, 2, steps=2, sampler="hybrid", teacher=other, teacher_steps=1).numel()


@pytest.mark.parametrize("said", [3, [], {"name": 1}, {"name": "x", "size": True, "sha256": "a"}])
def test_a_damaged_note_is_one_line(said: Any) -> None:
    with pytest.raises(UserError, match="^the description of the model in f is damaged: vocab"):
        vocabulary_in({"vocabulary": said}, "f")
    assert entry_of(None) == {}
