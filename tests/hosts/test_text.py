"""Texts of MDLM, SDTT and Duo: blocks as the hosts make them, and `di4c train` without a host."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from di4c_plugin import distill, load_student, sample
from di4c_plugin.data.texts import read_blocks
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.hosts import host_for
from di4c_plugin.networks import DiTConfig
from tests.stand_ins import stdlib_text

BOS, EOS = 0, 1  # of the tokenizer of characters
ROWS = [{"text": "abcd"}, {"prompt": "ef", "response": "g"}, {"text": "hijklm"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    stdlib_text.write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(str(folder))


def write(folder: Path, rows: list[dict[str, str]]) -> str:
    file = folder / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_texts_run_together_and_are_cut(tokenizer: Any, tmp_path: Path) -> None:
    data = read_blocks(write(tmp_path, ROWS), tokenizer, 6)
    letters = tokenizer.convert_tokens_to_ids(list("abcdefghijklm"))
    stream = [*letters[:4], EOS, *letters[4:7], EOS, *letters[7:], EOS]
    assert data.x_0.tolist() == [[BOS, *stream[i : i + 4], EOS] for i in (0, 4, 8, 12)]
    assert data.given is None
    plain = read_blocks(write(tmp_path, ROWS), tokenizer, 5, ends=False)
    assert plain.x_0.flatten().tolist() == stream[:15]


def test_a_line_of_plain_text_is_a_text(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("abcd\nefg\n")
    found = read_blocks(file, tokenizer, 4, ends=False).x_0
    assert tokenizer.decode(found.flatten().tolist()) == "abcd\nefg"  # a block was not filled


def test_too_little_text_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 16 tokens, and a block has 30"):
        read_blocks(write(tmp_path, ROWS), tokenizer, 32)
    for length, size in ((2, 0), (1, -1)):
        with pytest.raises(UserError, match=f"has 16 tokens, and a block has {size}"):
            read_blocks(write(tmp_path, ROWS), tokenizer, length)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer._tokenizer
    )
    with pytest.raises(UserError, match="no beginning or end of text: say host.ends=false"):
        read_blocks(write(tmp_path, ROWS), tokenizer, 4)


@pytest.mark.parametrize("host", ["mdlm", "sdtt", "duo"])
def test_a_teacher_is_distilled_without_its_program(
    tokenizer: Any, tmp_path: Path, host: str
) -> None:
    vocab = len(tokenizer) + (host != "duo")
    process: Process = Absorbing(vocab, mask=vocab - 1)
    if host == "duo":
        process = Uniform(vocab, leave_one_out=True)
    teacher = new_model(DiTConfig(vocab, 6, 16, 8, 1, 2), process)
    tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    options = {"name": host, "tokenizer": str(tmp_path / "tokenizer")}
    texts = write(tmp_path, ROWS)
    short = {"steps": 2, "batch_size": 2}
    student = distill(
        teacher,
        host=options | {"data": texts},
        algo={"latents": 2},
        training=short,
        out=tmp_path / "run",
        progress=False,
    )
    loaded = load_student(tmp_path / "run/student.safetensors")
    assert torch.equal(sample(loaded, 2, steps=2), sample(student, 2, steps=2))
    drawn = host_for(loaded, **options).texts(sample(loaded, 2, steps=2))
    assert all(isinstance(text, str) for text in drawn)


def test_another_tokenizer_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    teacher = new_model(DiTConfig(8, 6, 16, 8, 1, 2), Absorbing(8, mask=7))
    tokenizer.save_pretrained(str(tmp_path))
    host = host_for(teacher, "mdlm", data=write(tmp_path, ROWS), tokenizer=str(tmp_path))
    with pytest.raises(UserError, match="the network has 8: is it the one of the teacher"):
        host.data()
