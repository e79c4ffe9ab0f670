"""Sequences of tokens and their texts: a model's samples, or the content of a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from di4c_plugin.checkpoints.vocabulary import live_tokenizer
from di4c_plugin.data.array_files import load_arrays
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.plain_files import text_of, whole_text

SUFFIXES = (".txt", ".jsonl", ".json", ".npy")
BYTES = "bytes"
# Of the JSON files of samples that MDLM and Duo write, and of ours.
FIELDS = ("generated_seqs", "texts", "samples")


class Tokenizer(Protocol):
    """Converts between texts and tokens."""

    name: str

    def __len__(self) -> int:
        """Return the size of the vocabulary."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the tokens (L_i,), int64, of each text."""
        ...

    def decode(self, tokens: Sequence[Tensor]) -> list[str]:
        """Return the text of each sequence."""
        ...


def described(tokenizer: Tokenizer) -> str:
    """Return name, size and, where ids are known, a digest of the tokens, for a report."""
    known = live_tokenizer(getattr(tokenizer, "inner", None))
    tokens = known and known.vocabulary({"num_tokens": len(tokenizer)})
    digest = f", sha256 {tokens.sha256[:16]}" if tokens else ""
    return f"{tokenizer.name}, {len(tokenizer)} tokens{digest}"


class Bytes:
    """UTF-8: a token for each byte."""

    name = BYTES

    def __len__(self) -> int:
        return 256

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """See `Tokenizer`."""
        return [torch.tensor(list(text.encode()), dtype=torch.int64) for text in texts]

    def decode(self, tokens: Sequence[Tensor]) -> list[str]:
        """See `Tokenizer`; invalid UTF-8 becomes U+FFFD."""
        return [bytes(row.tolist()).decode(errors="replace") for row in tokens]


@dataclass(frozen=True)
class Texts:
    """Sequences.

    Attributes:
        tokens: n of (L_i,), int64, on the CPU; their lengths may differ.
        num_tokens: size of the vocabulary, without a mask.
        strings: the texts; None where no tokenizer is known.
        length: of a model's samples; None for a file.
    """

    tokens: Sequence[Tensor]
    num_tokens: int
    strings: Sequence[str] | None = None
    length: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def counts(self) -> Tensor:
        """How often each token is there, (num_tokens,), int64."""
        return torch.bincount(torch.cat([*self.tokens]), minlength=self.num_tokens)

    def by_length(self) -> list[Tensor]:
        """Return the sequences as tensors (n_k, L_k), one for each length above 0."""
        lengths = sorted({len(row) for row in self.tokens} - {0})
        return [torch.stack([r for r in self.tokens if len(r) == length]) for length in lengths]

    def spread(self, most: int) -> "Texts":
        """Return at most `most` of the sequences, evenly spaced."""
        if len(self) <= most:
            return self
        chosen = [k * len(self) // most for k in range(most)]
        strings = None if self.strings is None else [self.strings[k] for k in chosen]
        return replace(self, tokens=[self.tokens[k] for k in chosen], strings=strings)


def of_tokens(tokens: Tensor, num_tokens: int, tokenizer: Tokenizer | None) -> Texts:
    """Return samples (n, D) of a model, with their texts if there is a tokenizer.

    Raises:
        UserError: for tokens that the tokenizer does not have.
    """
    rows = list(tokens.long().cpu())
    if tokenizer is None:
        return Texts(rows, num_tokens, None, tokens.shape[1])
    highest = int(tokens.max())
    if highest >= len(tokenizer):
        raise UserError(
            f"tokenizer {tokenizer.name} has {len(tokenizer)} tokens, and the samples hold token "
            f"{highest}: it is not the model's"
        )
    return Texts(rows, max(num_tokens, len(tokenizer)), tokenizer.decode(rows), tokens.shape[1])


def data_tokens(process: Process) -> int:
    """Return the number of tokens that a model draws from, without a mask that is the last one."""
    last = process.num_tokens - 1
    return last if getattr(process, "mask", None) == last else process.num_tokens


def is_texts(source: str) -> bool:
    """Return whether `source` names a file of samples, not a model."""
    return source.lower().endswith(SUFFIXES)


def read_samples(path: Path, tokenizer: Tokenizer | None, num_tokens: int = 0) -> Texts:
    """Read samples: lines of text (.txt); strings or {"text": ...} (.jsonl, .json); tokens (.npy).

    In the JSON of MDLM and Duo these are "generated_seqs". A .npy file holds tokens (n, D), of a
    vocabulary of at least `num_tokens`.

    Raises:
        UserError: if the file is missing, damaged or empty, and for texts without a tokenizer.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix.lower() == ".npy":
        tokens = _array(path)
        return of_tokens(tokens, max(int(tokens.max()) + 1, num_tokens), tokenizer)
    strings = _strings(path)
    needed = _needed(tokenizer, path)
    return Texts(needed.encode(strings), len(needed), strings)


def read_reference(
    path: Path, tokenizer: Tokenizer | None, length: int | None, num_tokens: int = 0
) -> Texts:
    """Read real text, cut to the length of the samples.

    A .txt file is running text, cut into sequences of `length` tokens; the texts of other files
    keep their first `length` tokens. `num_tokens`: as for `read_samples`.

    Raises:
        UserError: see `read_samples`; and for running text without a length, or shorter than it.
    """
    if path.suffix.lower() != ".txt":
        texts = read_samples(path, tokenizer, num_tokens)
        rows = [row[:length] for row in texts.tokens]
        if texts.strings is None or all(map(torch.equal, rows, texts.tokens)):
            return replace(texts, tokens=rows, length=length)
        strings = _needed(tokenizer, path).decode(rows)
        return Texts(rows, texts.num_tokens, strings, length)
    if length is None:
        raise UserError(f"{path} is running text, cut to the samples' length: --length N")
    needed = _needed(tokenizer, path)
    (tokens,) = needed.encode([_read(path)])
    if len(tokens) < length:
        raise UserError(f"{path} has {len(tokens)} tokens, and a sequence takes {length}")
    rows = list(tokens[: len(tokens) // length * length].view(-1, length))
    return Texts(rows, len(needed), needed.decode(rows), length)


def _needed(tokenizer: Tokenizer | None, path: Path) -> Tokenizer:
    if tokenizer is None:
        raise UserError(
            f"{path} holds texts: name what makes tokens of them, --tokenizer FOLDER or hub id, "
            f"or --tokenizer {BYTES}"
        )
    return tokenizer


def _array(path: Path) -> Tensor:
    arrays = load_arrays(path, "", "no readable file of tokens")
    array = arrays.get("")
    if array is None or array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        raise UserError(f"{path} holds no tokens (n, D)")
    tokens = torch.from_numpy(array.astype("int64"))
    if int(tokens.min()) < 0:
        raise UserError(f"{path} holds the token {int(tokens.min())}: tokens are 0 or more")
    return tokens


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    return text_of(path)


def _strings(path: Path) -> list[str]:
    text = _read(path)
    if path.suffix.lower() == ".txt":
        texts: list[Any] = [line for line in text.split("\n") if line]
    else:
        texts = [_text(item) for item in _items(path, text)]
    if not texts:
        raise UserError(f"{path} holds no texts")
    if not all(isinstance(item, str) for item in texts):
        raise UserError(f"{path} holds something else than texts: strings, or objects with 'text'")
    return [whole_text(item, str(path)) for item in texts]


def _items(path: Path, text: str) -> list[Any]:
    try:
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no readable JSON") from error
    if isinstance(content, dict):
        content = next((content[name] for name in FIELDS if name in content), None)
    if not isinstance(content, list):
        raise UserError(f"{path} holds no list of texts, nor one as {', '.join(FIELDS)}")
    return content


def _text(item: Any) -> Any:
    return item.get("text") if isinstance(item, dict) else item
