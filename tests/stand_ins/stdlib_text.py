"""Text to try the hosts on that every machine has: the standard library's own sources.

    python tests/stand_ins/stdlib_text.py FOLDER [train characters]

    FOLDER/text/{train,validation}/*.txt  what datasets.load_dataset("FOLDER/text") splits
    FOLDER/held_out.txt                   for the n-gram judge; no teacher sees it
    FOLDER/held_out.npy                   the same in blocks as MDLM and Duo make them, of 32 tokens
    FOLDER/tokenizer/                     characters, for AutoTokenizer.from_pretrained
    FOLDER/gpt2/                          a tiny random GPT-2 with it, for the hosts' gen-PPL code

The text builder of `datasets` makes every line a document, without its newline; the hosts put
the end-of-text token after each document. That token is "\\n" here, so decoded samples are
source code again. No mask token: the hosts then add one after the last (the id `len(tokenizer)`).
"""

import string
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

SPECIAL = {"bos_token": "[BOS]", "eos_token": "\n", "pad_token": "[PAD]", "unk_token": "[UNK]"}
PRINTABLE = frozenset(string.printable[:95])
TOKENS = (*SPECIAL.values(), *sorted(PRINTABLE))
# Tests, tables and other people's code; the rest is some 10 MB.
SKIPPED = {
    *("__pycache__", "config-3", "dist-packages", "encodings", "idlelib", "lib2to3"),
    *("pydoc_data", "site-packages", "test", "tests", "tkinter", "turtledemo"),
}


def sources() -> Iterator[str]:
    """Yield the source files that are plain printable ASCII, shuffled, the same way every time."""
    root = Path(sysconfig.get_path("stdlib"))
    names = [p.relative_to(root) for p in root.rglob("*.py")]
    kept = [name for name in names if not SKIPPED.intersection(name.parts)]
    for name in sorted(kept, key=lambda p: (zlib.crc32(p.as_posix().encode()), p)):
        text = (root / name).read_text(encoding="utf-8", errors="replace")
        if PRINTABLE.union("\n").issuperset(text):
            yield text


def take(files: Iterator[str], characters: int) -> str:
    """Return whole lines of the next files, about `characters` of them.

    Raises:
        ValueError: if the standard library has not that much text.
    """
    taken = ""
    while len(taken) < characters:
        text = next(files, None)
        if text is None:
            raise ValueError(f"only {len(taken)} characters left, not {characters}")
        taken += text
    return taken[: taken.rindex("\n", 0, characters) + 1]


def write_text(folder: Path, *, train: int, validation: int, held_out: int) -> None:
    """Write the three texts, of different source files but for one that two may share."""
    files = sources()
    # The small ones first, so that more training text leaves them as they are.
    sizes = {
        "text/validation/validation.txt": validation,
        "held_out.txt": held_out,
        "text/train/train.txt": train,
    }
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(take(files, size), encoding="ascii")


def write_tokenizer(folder: Path) -> None:
    """Write a character-level tokenizer that AutoTokenizer reads; unknown characters are [UNK]."""
    tokenizers, transformers = import_module("tokenizers"), import_module("transformers")
    vocab = {token: i for i, token in enumerate(TOKENS)}
    # Byte pairs without a merge are characters; no pre-tokenizer, so that spaces are kept.
    pairs = tokenizers.models.BPE(vocab=vocab, merges=[], unk_token=SPECIAL["unk_token"])
    characters = tokenizers.Tokenizer(pairs)
    characters.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters, clean_up_tokenization_spaces=False, **SPECIAL
    )
    tokenizer.save_pretrained(folder)


def blocks(text: str, length: int = 32) -> Any:
    """Return an array of blocks (M, length) that begin with BOS and end with EOS."""
    numpy = import_module("numpy")
    known, inner = {token: i for i, token in enumerate(TOKENS)}, length - 2
    ids = [known[character] for character in text]
    rows = numpy.array(ids[: len(ids) // inner * inner]).reshape(-1, inner)
    ends = known[SPECIAL["bos_token"]], known[SPECIAL["eos_token"]]
    return numpy.pad(rows, ((0, 0), (1, 1)), constant_values=((0, 0), ends))


def write_blocks(folder: Path) -> None:
    """Write held_out.npy, see `blocks`."""
    text = (folder / "held_out.txt").read_text("ascii")
    import_module("numpy").save(folder / "held_out.npy", blocks(text))


def write_gpt2(folder: Path) -> None:
    """Write a tiny GPT-2 with random weights, always the same, and the tokenizer beside it."""
    import torch

    transformers = import_module("transformers")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1024}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=len(TOKENS), **sizes, **ends)
        model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    write_tokenizer(folder)


def build(
    folder: Path, *, train: int = 60_000, validation: int = 10_000, held_out: int = 60_000
) -> Path:
    """Write everything into the folder, sizes in characters, and return the folder.

    Raises:
        ValueError: if the standard library has not that much text.
    """
    write_text(folder, train=train, validation=validation, held_out=held_out)
    write_blocks(folder)
    write_tokenizer(folder / "tokenizer")
    write_gpt2(folder / "gpt2")
    return folder


if __name__ == "__main__":
    size = int(sys.argv[2]) if sys.argv[2:] else 3_000_000
    build(Path(sys.argv[1]), train=size, validation=200_000, held_out=2_000_000)
