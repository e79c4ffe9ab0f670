"""The sizes of a masked language model of transformers, from its config.json and tokenizer."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from di4c_plugin.errors import UserError, quoted, reason
from di4c_plugin.families.hf.rows import row_of, token_id
from di4c_plugin.limits import exceeds, over, regular

DTYPES = ("bfloat16", "float16", "float32", "float64")
# Entries of transformers' configs that depend on the machine, the version or the run.
VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
# What is in the names of sizes; and how large these may be, whatever the weights are.
SIZES = ("size", "dim", "model", "head", "expert", "position", "length", "window")
LAYERS, POSITIONS = 1000, 2**21
# Fields of a row that are sizes.
OF_ROW = ("shift", "attention", "block", "attention_argument", "embedding", "head", "blocks")


@dataclass(frozen=True)
class HFConfig:
    """A network, and how to call it.

    Attributes:
        config: the content of its config.json.
        vocab_size: V, ids that it has logits for.
        hidden_size: H, also of an embedding.
        embedding_std: standard deviation of the embeddings' coordinates in the teacher.
        length: D, the longest sequence.
        mask: id of the mask.
        num_blocks: layers.
        pad: id that stands for padding and is in no text; None: there is none.
        first_position: index of the first position.
        positions_end: number of positions the network knows, from 0; None: unlimited.
        shift, attention, block, attention_argument, embedding, head, blocks: see `rows.Row`.
        dtype: of the weights.
    """

    config: Any
    vocab_size: int
    hidden_size: int
    embedding_std: float
    length: int
    mask: int
    num_blocks: int
    pad: int | None = None
    first_position: int = 0
    positions_end: int | None = None
    shift: bool = False
    attention: str = "full"
    block: int | None = None
    attention_argument: str = "attention_mask"
    embedding: str | None = None
    head: str | None = None
    blocks: str | None = None
    dtype: str = "float32"

    kind: ClassVar[str] = "hf"
    variable: ClassVar[bool] = True  # sequences may be shorter than `length`

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"host.dtype is {quoted(self.dtype)}: there are {', '.join(DTYPES)}")
        if not isinstance(self.config, Mapping):
            raise UserError("config is no config.json")

    @property
    def positions(self) -> int:
        """D."""
        return self.length

    @property
    def num_classes(self) -> int:
        """No labels."""
        return 0

    @property
    def embedding_size(self) -> int:
        """E = H."""
        return self.hidden_size

    @property
    def num_norms(self) -> int:
        """Two a block, and the last one."""
        return 2 * self.num_blocks + 1


def check_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: str) -> None:
    """Refuse numbers in a config.json that its network cannot have, before it is made.

    Raises:
        UserError: naming the entry.
    """
    numbers = sum(tensor.numel() for tensor in tensors.values())
    for name, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"the config.json of {origin} says {quoted(name)} {value}")
        if type(value) is not int:
            continue
        layers = "layer" in name
        if not (layers or any(word in name for word in SIZES)):
            continue
        most = max(len(tensors), LAYERS) if layers else max(numbers, POSITIONS)
        if exceeds(value, most):
            problem = f"the config.json of {origin} says {quoted(name)} {quoted(value)}"
            raise UserError(over(f"{problem}, and its weights are {len(tensors)}"))


def _leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(name), value


@dataclass(frozen=True)
class Special:
    """The tokens in a tokenizer's files: ids by token, and the special ones."""

    ids: Mapping[str, int]
    special: frozenset[int]
    mask: int | None = None
    pad: int | None = None
    eos: int | None = None


def special_in(folder: Path) -> Special:
    """Return the tokens in the files of a tokenizer in a folder; no tokens without files.

    Raises:
        UserError: for a damaged file.
    """
    described, configured = (
        _json(folder / "tokenizer.json"),
        _json(folder / "tokenizer_config.json"),
    )
    mapped = _json(folder / "special_tokens_map.json")
    ids: dict[str, int] = {}
    special: set[int] = set()
    model = described.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocabulary, Mapping):
        ids |= vocabulary
    elif isinstance(vocabulary, list):
        ids |= {pair[0]: i for i, pair in enumerate(vocabulary)}
    added = list(described.get("added_tokens") or [])
    decoder = configured.get("added_tokens_decoder") or {}
    added += [{**entry, "id": int(i)} for i, entry in decoder.items()]
    for entry in added:
        ids[entry["content"]] = entry["id"]
        if entry.get("special"):
            special.add(entry["id"])

    def named(name: str) -> int | None:
        token = configured.get(name) or mapped.get(name)
        token = token.get("content") if isinstance(token, Mapping) else token
        return ids.get(token) if isinstance(token, str) else None

    return Special(
        ids, frozenset(special), named("mask_token"), named("pad_token"), named("eos_token")
    )


def sizes_of_folder(
    config: Mapping[str, Any],
    tokenizer: Special,
    options: Mapping[str, Any],
    origin: str,
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the sizes by name, and the barred ids.

    Beside the mask, barred ids are the special tokens (or the user's) without the end of text, and
    ids without a token.

    Raises:
        UserError: naming what is missing.
    """
    row = row_of(config, options)
    text = config.get("text_config")
    flat = {**text, **config} if isinstance(text, Mapping) else config
    vocab = _number(flat, ("vocab_size", "embedding_size"), origin, "vocab_size")
    if config.get("model_type") == "llada" and isinstance(config.get("embedding_size"), int):
        vocab = config["embedding_size"]
    candidates = (options.get("mask"), config.get("mask_token_id"), row.mask, tokenizer.mask)
    mask = next((i for i in candidates if i is not None), None)
    if type(mask) is not int or not 0 <= mask < vocab:
        raise UserError(
            f"{origin} does not say its mask token among {vocab} ids ({quoted(mask)}): "
            "say host.mask="
        )
    largest = max(tokenizer.ids.values(), default=vocab - 1)
    spare = range(largest + 1, vocab)
    ends = {tokenizer.eos} | _ids(config.get("eos_token_id"))
    special = (
        tokenizer.special - ends - {tokenizer.mask} if options.get("barred") is None else set()
    )
    barred = {*row.barred, *spare, *special} - {mask}
    named = [("host.barred", token) for token in options.get("barred") or ()]
    named += [] if options.get("pad") is None else [("host.pad", options["pad"])]
    for name, token in named:
        if token_id(token, name) >= vocab or (name, token) == ("host.pad", mask):
            raise UserError(
                f"{name} is {token}: the ids are 0 ... {vocab - 1}, and {mask} the mask"
            )
    pad = _pad(options.get("pad"), tokenizer, spare, ends, mask, barred)
    barred |= set() if pad is None else {pad}
    sizes = {
        "vocab_size": vocab,
        "hidden_size": _number(flat, ("hidden_size", "dim", "d_model"), origin, "hidden_size"),
        "num_blocks": _number(
            flat, ("num_hidden_layers", "n_layers", "num_layers"), origin, "num_hidden_layers"
        ),
        "mask": mask,
        "pad": pad,
        **_positions(config, flat, options.get("length")),
        **{name: getattr(row, name) for name in OF_ROW},
        "config": {k: v for k, v in config.items() if k not in VOLATILE},
    }
    return sizes, tuple(sorted(token for token in barred if 0 <= token < vocab))


def _positions(config: Mapping[str, Any], flat: Mapping[str, Any], length: Any) -> dict[str, Any]:
    """Return the length and the positions that the network knows; raises UserError."""
    roberta = "roberta" in str(config.get("model_type"))
    first = (config.get("pad_token_id") or 0) + 1 if roberta else 0
    names = ("max_position_embeddings", "max_sequence_length", "n_positions")
    end = next((flat[name] for name in names if flat.get(name)), None)
    end = end if type(end) is int else None
    longest = None if end is None else end - first
    length = length or longest
    if type(length) is not int or not 1 <= length <= (longest or length):
        raise UserError(
            f"host.length is {quoted(length)}: the network has up to {longest} positions"
        )
    return {"length": length, "first_position": first, "positions_end": end}


def _pad(
    named: Any, tokenizer: Special, spare: range, ends: set[Any], mask: int, barred: set[int]
) -> int | None:
    """Return an id that no text has: the user's, the tokenizer's padding, or a spare one.

    Never the end of text, which would be hidden from attention in every text.
    """
    if named is not None:
        return named
    if tokenizer.pad is not None and tokenizer.pad not in ends and tokenizer.pad != mask:
        return tokenizer.pad
    if len(spare):
        return next((token for token in spare if token != mask), None)
    return min((token for token in barred if token != mask), default=None)


def _number(config: Mapping[str, Any], names: tuple[str, ...], origin: str, field: str) -> int:
    for name in names:
        if type(config.get(name)) is int:
            return int(config[name])
    raise UserError(f"the config.json of {origin} does not say {field}")


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {token for token in values if type(token) is int}


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a file, {} where there is none; raises UserError."""
    if not path.exists():
        return {}
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable: {reason(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not readable: it is {quoted(content)}, with no fields")
    return content
