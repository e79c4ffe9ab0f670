import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin import load_teacher
from tests.stand_ins import stdlib_text
from tests.stand_ins.stdlib_modernbert import write_modernbert

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"train": 20_000, "validation": 3_000, "held_out": 5_000}
    return stdlib_text.build(tmp_path_factory.mktemp("stdlib"), **sizes)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")


def test_the_texts_are_as_long_as_asked_and_end_with_a_line(folder: Path) -> None:
    sizes = {"train/train": 20_000, "validation/validation": 3_000, "../held_out": 5_000}
    for name, size in sizes.items():
        text = (folder / "text" / f"{name}.txt").read_text()
        assert size - 200 < len(text) <= size
        assert text.endswith("\n")
        assert " def " in text or "\ndef " in text


def test_held_out_blocks_are_as_the_hosts_make_them(folder: Path, tokenizer: Any) -> None:
    blocks = np.load(folder / "held_out.npy")
    assert blocks.shape[1] == 32
    texts = tokenizer.batch_decode(blocks)
    assert all(text[:5] == "[BOS]" and text[-1] == "\n" for text in texts)
    text, held_out = "".join(text[5:-1] for text in texts), (folder / "held_out.txt").read_text()
    assert held_out.startswith(text)
    assert len(held_out) - len(text) < 30


def test_the_texts_are_different_text(folder: Path) -> None:
    train, validation, held_out = (
        {line for line in (folder / name).read_text().splitlines() if len(line) > 50}
        for name in ("text/train/train.txt", "text/validation/validation.txt", "held_out.txt")
    )
    assert not train & (validation | held_out)
    assert not validation & held_out


def test_more_training_text_leaves_the_others_as_they_are(folder: Path, tmp_path: Path) -> None:
    stdlib_text.write_text(tmp_path, train=30_000, validation=3_000, held_out=5_000)
    for name in ("text/validation/validation.txt", "held_out.txt"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    train = [(f / "text/train/train.txt").read_text() for f in (folder, tmp_path)]
    assert train[1].startswith(train[0])


def test_more_text_than_there_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^only \d{7,8} characters left, not 1000000000$"):
        stdlib_text.write_text(tmp_path, train=10**9, validation=200, held_out=200)


def test_datasets_reads_its_lines_as_two_splits(folder: Path, tmp_path: Path) -> None:
    found = datasets.load_dataset(str(folder / "text"), cache_dir=str(tmp_path))
    assert set(found) == {"train", "validation"}
    for split in found:
        text = (folder / f"text/{split}/{split}.txt").read_text()
        assert "\n".join([*found[split]["text"], ""]) == text


def test_the_tokenizer_gives_one_token_a_character_and_gives_the_text_back(
    folder: Path, tokenizer: Any
) -> None:
    text = (folder / "text/validation/validation.txt").read_text()
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer("  a \n\n b's , x .  ", add_special_tokens=True)["input_ids"] == [
        stdlib_text.TOKENS.index(character) for character in "  a \n\n b's , x .  "
    ]


def test_every_token_is_given_back_alone_and_in_company(tokenizer: Any) -> None:
    every = list(range(len(stdlib_text.TOKENS)))
    for ids in ([i] for i in every):
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.encode(tokenizer.decode(every)) == every
    assert tokenizer.batch_decode([every, every]) == ["".join(stdlib_text.TOKENS)] * 2


def test_the_tokenizer_is_as_the_hosts_want_it(tokenizer: Any) -> None:
    # A token more than `vocab_size` would share its id with the mask that the hosts add.
    assert tokenizer.vocab_size == len(tokenizer) == len(stdlib_text.TOKENS) == 99
    assert tokenizer.mask_token is None
    for name, token in stdlib_text.SPECIAL.items():
        assert getattr(tokenizer, name) == token
        assert tokenizer.encode(token)[0] == getattr(tokenizer, f"{name}_id")
    assert tokenizer.encode("é") == [tokenizer.unk_token_id]


def test_the_language_model_scores_text_of_its_own_tokenizer(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "gpt2")
    batch = tokenizer(["def f():\n", "x"], return_tensors="pt", padding=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "gpt2").eval()
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    assert logits.shape == (2, 9, 99)
    assert torch.isfinite(logits).all()
    assert sum(p.numel() for p in model.parameters()) < 30_000


def test_the_language_model_is_always_the_same(folder: Path, tmp_path: Path) -> None:
    stdlib_text.write_gpt2(tmp_path)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / "gpt2" / name).read_bytes()


@pytest.mark.slow
def test_as_a_program_it_builds_enough_to_train_on(tmp_path: Path) -> None:
    command = [sys.executable, stdlib_text.__file__, str(tmp_path), "2500000"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (tmp_path / "text/train/train.txt").stat().st_size > 2_490_000


def test_a_modernbert_for_it_is_a_masked_diffusion_model(folder: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "one", tmp_path / "two"):
        write_modernbert(folder, out)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [(tmp_path / "one" / n).read_bytes() for n in names] == [
        (tmp_path / "two" / n).read_bytes() for n in names
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "one")
    text = (folder / "text/train/train.txt").read_text()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    model = load_teacher(tmp_path / "one", host={"name": "hf"})
    assert (model.network.positions, model.process.num_tokens) == (32, 512)
    assert model.process.config["mask"] == tokenizer.mask_token_id
