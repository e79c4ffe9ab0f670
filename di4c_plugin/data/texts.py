"""Texts for training: lines of JSON, Parquet, plain text, chats; prompts are given tokens.

A row of JSON or Parquet holds `messages` (a chat that ends with the answer), or `prompt` and an
answer (`response`, `completion` or `answer`), or `text`. Prompts and padding are neither corrupted
nor counted in a loss. `read_blocks` concatenates all texts instead.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce
from di4c_plugin.errors import UserError, quoted, reason
from di4c_plugin.limits import exceeds, over, regular
from di4c_plugin.plain_files import text_of, whole_text

ANSWERS = ("response", "completion", "answer")
TABLES = {".jsonl": "lines of JSON", ".json": "lines of JSON", ".parquet": "Parquet"}
PADDING = 5 * 10**8  # tokens of 8 bytes
Example = tuple[list[int], list[int]]  # prompt and answer


def read_texts(
    source: str | Path,
    tokenizer: Any,
    length: int,
    *,
    pad: int | None = None,
    field: str = "text",
    split: str = "train",
) -> Data:
    """Return examples of up to `length` tokens as training data.

    Args:
        source: a file `.jsonl`, `.json` (lines) or `.parquet`; any other file is plain text, cut
            into blocks; anything else is the name of a data set for `datasets`.
        tokenizer: of transformers.
        length: longer examples are truncated, and this is announced.
        pad: id of padding; None: all examples must have one length.
        field: name of the column of plain texts.
        split: of a data set.

    Raises:
        UserError: for a row that cannot be read, naming it, without examples, and where one is so
            much longer than the others that padding to it takes gigabytes.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in TABLES:
        return packed(blocks_of(path, tokenizer, length), length, pad, str(source))
    rows = _rows(path) if path.is_file() else _data_set(str(source), split)
    return packed(examples_of(rows, tokenizer, field, str(source)), length, pad, str(source))


def read_blocks(
    source: str | Path,
    tokenizer: Any,
    length: int,
    *,
    ends: bool = True,
    field: str = "text",
    split: str = "train",
) -> Data:
    """Return concatenated texts, each with an end of text, cut into blocks of `length` tokens.

    A chat, or a prompt with its answer, is one text. An incomplete last block is dropped.

    Args:
        source: as for `read_texts`; each line of plain text is a text.
        tokenizer: of transformers.
        length: D.
        ends: a block is the beginning of text, length - 2 tokens, the end of text, as from the
            hosts' `wrap`.
        field: name of the column of plain texts.
        split: of a data set.

    Raises:
        UserError: as `read_texts`, and for a tokenizer without these tokens.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if ends and (bos is None or eos is None):
        raise UserError("the tokenizer has no beginning or end of text: say host.ends=false")
    path = Path(source).expanduser()
    if path.is_file() and path.suffix.lower() not in TABLES:
        rows: Iterable[Any] = ({field: line} for line in _lines(path))
    else:
        rows = _rows(path) if path.is_file() else _data_set(str(source), split)
    stream = array("q")
    for prompt, answer in examples_of(rows, tokenizer, field, str(source)):
        stream.extend([*prompt, *answer])
    size = length - 2 if ends else length
    count = len(stream) // max(size, 1)
    if not count or size < 1:
        raise UserError(f"{source} has {len(stream)} tokens, and a block has {size}")
    x_0 = torch.frombuffer(stream, dtype=torch.int64)[: count * size].view(count, size)
    if ends:
        column = torch.ones((count, 1), dtype=torch.int64)
        x_0 = torch.cat([bos * column, x_0, eos * column], 1)
    return Data(x_0)


def blocks_of(path: Path, tokenizer: Any, length: int) -> Iterator[Example]:
    """Yield the blocks of a plain text; an incomplete last block is dropped."""
    ids = encode(tokenizer, text_of(path))
    for start in range(0, len(ids) - length + 1, length):
        yield [], ids[start : start + length]


def examples_of(rows: Iterable[Any], tokenizer: Any, field: str, origin: str) -> Iterator[Example]:
    """Yield the prompt and the answer of each row as ids; errors as `read_texts`."""
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for number, row in enumerate(rows):
        where = f"row {number + 1} of {origin}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where} is {quoted(row)}, with no fields")
        if row.get("messages") is not None:
            yield chat(tokenizer, row["messages"], where)
            continue
        answer = next((name for name in ANSWERS if row.get(name) is not None), None)
        if row.get("prompt") is not None and answer is not None:
            prompt, text = _text(row, "prompt", where), _text(row, answer, where)
            yield encode(tokenizer, prompt), encode(tokenizer, text) + end
        elif row.get(field) is not None:
            yield [], encode(tokenizer, _text(row, field, where)) + end
        else:
            raise UserError(
                f"{where} has {', '.join(map(str, row)) or 'nothing'}: it needs messages, prompt "
                f"and response, or {field}"
            )


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text, without special tokens.

    Raises:
        UserError: for a text that has no encoding.
    """
    return list(tokenizer.encode(whole_text(text, "a text"), add_special_tokens=False))


def chat(tokenizer: Any, messages: Any, where: str) -> Example:
    """Return all but the answer of a chat, and the answer, by the tokenizer's template.

    Raises:
        UserError: if the last message is not an answer, there is no template, or the prompt is not
            a prefix of the full chat.
    """
    last = messages[-1] if isinstance(messages, Sequence) and len(messages) else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        raise UserError(f"{where}: the last of its messages is no answer of the assistant")
    full = by_template(tokenizer, messages, where)
    prompt = by_template(tokenizer, messages[:-1], where, answer=True)
    if full[: len(prompt)] != prompt:
        raise UserError(f"{where}: the template does not begin the whole chat with its prompt")
    return prompt, full[len(prompt) :]


def by_template(tokenizer: Any, messages: Any, where: str, *, answer: bool = False) -> list[int]:
    """Return the ids of messages by the tokenizer's chat template; `answer` opens an answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{where} is a chat, and the tokenizer has no chat template")
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=answer
        )
    except Exception as error:  # of a template of anybody
        raise UserError(f"{where}: the chat template refuses it: {reason(error)}") from error
    return encode(tokenizer, text)


def packed(examples: Iterable[Example], length: int, pad: int | None, origin: str) -> Data:
    """Return padded examples; see `read_texts`."""
    stream, sizes, given_sizes = array("q"), array("q"), array("q")
    cut = empty = 0
    for prompt, answer in examples:
        ids = [*prompt, *answer]
        if len(prompt) >= min(length, len(ids)):
            empty += 1  # nothing is left to learn
            continue
        cut += len(ids) > length
        stream.extend(ids[:length])
        sizes.append(min(len(ids), length))
        given_sizes.append(len(prompt))
    if not sizes:
        raise UserError(f"{origin} holds no examples of up to {length} tokens")
    for count, what in ((cut, "lose their end"), (empty, "have no answer and are left out")):
        if count:
            announce(f"{count} of {len(sizes) + empty} examples {what} at {length} tokens")
    longest = max(sizes)
    if pad is None and min(sizes) != longest:
        raise UserError(f"{origin} has examples of several lengths: say host.pad=, its id")
    if exceeds(len(sizes) * longest - len(stream), PADDING):
        problem = f"the longest of {len(sizes)} examples of {origin} has {longest} tokens, and"
        problem += f" padding to it takes more than {PADDING}: say host.length=, which cuts it"
        raise UserError(over(problem))
    lengths, prompts = (torch.frombuffer(a, dtype=torch.int64) for a in (sizes, given_sizes))
    position = torch.arange(longest)
    inside = position < lengths[:, None]
    x_0 = torch.full((len(sizes), longest), pad or 0)
    x_0.masked_scatter_(inside, torch.frombuffer(stream, dtype=torch.int64))
    given = (position < prompts[:, None]) | ~inside
    return Data(x_0, given=given if bool(given.any()) else None, lengths=lengths)


def read_prompts(path: Path) -> list[Any]:
    """Return the prompts in a file: texts, or chats (lists of messages).

    Lines of JSON are strings, or hold `prompt` or `messages`; in other files each line is a prompt.

    Raises:
        UserError: for a file that cannot be read, or is empty.
    """
    if path.suffix.lower() in TABLES:
        prompts = [_prompt(row, f"row {i + 1} of {path}") for i, row in enumerate(_rows(path))]
    else:
        prompts = [line for line in _lines(path) if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompts")
    return prompts


def encode_prompts(tokenizer: Any, prompts: Sequence[Any]) -> list[list[int]]:
    """Return the ids of prompts, texts or chats; raises UserError for one without tokens."""
    return [
        encode(tokenizer, prompt)
        if isinstance(prompt, str)
        else by_template(tokenizer, prompt, f"prompt {number}", answer=True)
        for number, prompt in enumerate(prompts, 1)
    ]


def _prompt(row: Any, where: str) -> Any:
    if isinstance(row, str):
        return row
    if isinstance(row, Mapping):
        for name in ("messages", "prompt"):
            if isinstance(row.get(name), list | str):
                return row[name]
    raise UserError(f"{where} has neither prompt nor messages")


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    if not isinstance(row[field], str):
        raise UserError(f"{where}: {field} is {quoted(row[field])}, no text")
    return str(row[field])


def _lines(path: Path) -> list[str]:
    return text_of(path).split("\n")


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a table; raises UserError."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    try:
        with regular(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file):
                if line.strip():
                    yield _line(line, f"line {number + 1} of {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def _line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON: {reason(error)}") from error


def _parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install 'di4c_plugin[hf]'") from error
    try:
        for batch in parquet.ParquetFile(regular(path)).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def _data_set(name: str, split: str) -> Iterable[Any]:
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"{name} is no regular file")
    if not path.exists() and path.suffix.lower() in (*TABLES, ".txt"):
        raise UserError(f"no such file: {name}")
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"there is no file {name}; as the name of a data set it needs datasets: pip install "
            "'di4c_plugin[hf]'"
        ) from error
    try:
        rows: Iterable[Any] = datasets.load_dataset(name, split=split)
    except Exception as error:  # of the hub, of files, of scripts that it refuses to run
        raise UserError(f"neither a file nor a data set: {name} ({reason(error)})") from error
    return rows
