import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.diffusion import Absorbing, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.texts import (
    Bytes,
    Texts,
    data_tokens,
    of_tokens,
    read_reference,
    read_samples,
)

BYTES = Bytes()


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one é\ntwo\n\n"),
        ("a.jsonl", '{"text": "one é"}\n\n"two"\n'),
        ("a.json", ["one é", {"text": "two"}]),
        ("a.json", {"generative_ppl": 3.0, "generated_seqs": ["one é", "two"]}),
    ],
)
def test_texts_of_each_kind_of_file(name: str, content: Any, tmp_path: Path) -> None:
    found = read_samples(write(tmp_path / name, content), BYTES)
    assert found.strings == ["one é", "two"]
    assert [row.tolist() for row in found.tokens] == [list("one é".encode()), list(b"two")]
    assert (found.num_tokens, found.length) == (256, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '"a"\n{"text": "\\ud800 b"}\n'), ("a.json", ["a", "\udc80"])],
)
def test_half_a_character_is_no_text(name: str, content: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds half a character: "):
        read_samples(write(tmp_path / name, content), BYTES)


def test_sequences_of_any_length_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 3 tokens, and a sequence takes 10000000000"):
        read_reference(write(tmp_path / "a.txt", "abc"), BYTES, 10**22)


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.json"])
def test_a_byte_order_mark_is_no_token(name: str, tmp_path: Path) -> None:
    content = {"x.txt": "ab\n", "x.jsonl": '"ab"', "x.json": '["ab"]'}[name]
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_samples(tmp_path / name, Bytes()).strings == ["ab"]
    if name == "x.txt":
        assert read_reference(tmp_path / name, Bytes(), 3).strings == ["ab\n"]


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    content = json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n"
    assert read_samples(write(tmp_path / "a.jsonl", content), BYTES).strings == ["a\u2028b"]


def test_tokens_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 99]], dtype=np.int32))
    plain = read_samples(tmp_path / "a.npy", None)
    assert (plain.strings, plain.num_tokens) == (None, 100)
    assert read_samples(tmp_path / "a.npy", BYTES).strings == ["\x01\x02", "\x03c"]


def test_running_text_is_cut_and_other_texts_are_shortened(tmp_path: Path) -> None:
    whole = read_reference(write(tmp_path / "a.txt", "abcdefgh\nij"), BYTES, 4)
    assert whole.strings == ["abcd", "efgh"]
    short = read_reference(write(tmp_path / "a.jsonl", '"abcdef"\n"gh"'), BYTES, 4)
    assert short.strings == ["abcd", "gh"]
    assert [row.tolist() for row in short.tokens] == [list(b"abcd"), list(b"gh")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n\n", "holds no texts"),
        ("a.json", "{", "is no readable JSON"),
        ("a.json", {"a": ["b"]}, "holds no list of texts, nor one as generated_seqs"),
        ("a.json", ["a", 3], "holds something else than texts"),
        ("a.json", "[" * 100_000, "is no readable JSON"),
        ("a.npy", "no array", "is no readable file of tokens"),
    ],
)
def test_what_is_no_file_of_samples(name: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_samples(write(tmp_path / name, content), BYTES)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*b\.txt"):
        read_samples(tmp_path / "b.txt", BYTES)
    text = write(tmp_path / "a.txt", "abc")
    with pytest.raises(UserError, match="name what makes tokens of them"):
        read_samples(text, None)
    with pytest.raises(UserError, match="is running text, cut to the samples' length: --length N"):
        read_reference(text, BYTES, None)
    with pytest.raises(UserError, match="has 3 tokens, and a sequence takes 4"):
        read_reference(text, BYTES, 4)
    with pytest.raises(UserError, match="tokenizer bytes has 256 tokens, and the samples hold"):
        of_tokens(torch.tensor([[256]]), 300, BYTES)
    (tmp_path / "c.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_samples(tmp_path / "c.txt", BYTES)
    np.save(tmp_path / "d.npy", np.array([[1.5]]))
    np.save(tmp_path / "e.npy", np.array([[-1]]))
    for name, message in (("d", "holds no tokens"), ("e", "holds the token -1")):
        with pytest.raises(UserError, match=message):
            read_samples(tmp_path / f"{name}.npy", None)


def test_sequences_spread_over_the_whole() -> None:
    texts = Texts([torch.tensor([k]) for k in range(10)], 10, [str(k) for k in range(10)])
    assert [int(row) for row in texts.spread(4).tokens] == [0, 2, 5, 7]
    assert texts.spread(4).strings == ["0", "2", "5", "7"]
    assert texts.spread(10) is texts


def test_a_mask_that_is_counted_as_the_last_token_is_none() -> None:
    """As in MDLM: a scorer of as many tokens as the tokenizer has the model's vocabulary."""
    assert data_tokens(Absorbing(100, mask=99)) == 99
    assert data_tokens(Absorbing(100, mask=7)) == 100
    assert data_tokens(Absorbing(99)) == data_tokens(Uniform(99)) == 99
