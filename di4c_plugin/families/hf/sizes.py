"""What makes a masked language model of transformers, as plain values, and how it is found out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from di4c_plugin.errors import UserError, quoted
from di4c_plugin.families.hf.rows import Row, row_of, whole
from di4c_plugin.limits import regular

DTYPES = ("bfloat16", "float16", "float32", "float64")
# Of transformers' configs: what changes with the machine, the version or the run.
NOT_OURS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


@dataclass(frozen=True)
class HFConfig:
    """A network, with how it is called.

    Attributes:
        config: what its config.json says.
        vocab_size: V, ids that it has logits for.
        hidden_size: H, also of an embedding.
        embedding_std: standard deviation of the embeddings' coordinates in the teacher.
        length: D, the longest sequence.
        mask: id of the mask.
        num_blocks: layers.
        pad: id that stands for padding and is in no text; None: there is none.
        first_position: that positions are counted from.
        positions_end: how many positions the network knows, from 0; None: any number.
        shift: see `rows.Row`, for this and what follows.
        attention: see there.
        block: see there.
        attention_argument: see there.
        embedding: see there.
        head: see there.
        blocks: see there.
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


@dataclass(frozen=True)
class Special:
    """What a tokenizer's files say: ids by token, and which of them are special."""

    ids: Mapping[str, int]
    special: frozenset[int]
    mask: int | None = None
    pad: int | None = None
    eos: int | None = None


def special_in(folder: Path) -> Special:
    """Return what the files of a tokenizer in a folder say; nothing where there are none."""
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
    told: Special,
    said: Mapping[str, Any],
    origin: str,
) -> tuple[dict[str, Any], tuple[int, ...], Row]:
    """Return sizes that config.json and tokenizer tell, the barred ids, and the row.

    Barred beside the mask are special tokens but the end of text, or what the user says in their
    place, and ids that the tokenizer has no token for.

    Raises:
        UserError: naming what is missing.
    """
    row = row_of(config, said)
    text = config.get("text_config")
    own = {**text, **config} if isinstance(text, Mapping) else config
    vocab = _number(own, ("vocab_size", "embedding_size"), origin, "vocab_size")
    if config.get("model_type") == "llada" and isinstance(config.get("embedding_size"), int):
        vocab = config["embedding_size"]
    asked = (said.get("mask"), config.get("mask_token_id"), row.mask, told.mask)
    mask = next((each for each in asked if each is not None), None)
    if type(mask) is not int or not 0 <= mask < vocab:
        raise UserError(
            f"{origin} does not say its mask token among {vocab} ids ({quoted(mask)}): "
            "say host.mask="
        )
    known = max(told.ids.values(), default=vocab - 1)
    spare = range(known + 1, vocab)
    ends = {told.eos} | _ids(config.get("eos_token_id"))
    special = told.special - ends - {told.mask} if said.get("barred") is None else set()
    barred = {*row.barred, *spare, *special} - {mask}
    pad = _pad(said.get("pad"), told, spare, ends, mask, barred)
    barred |= set() if pad is None else {pad}
    roberta = "roberta" in str(config.get("model_type"))
    first = (config.get("pad_token_id") or 0) + 1 if roberta else 0
    end = (
        own.get("max_position_embeddings")
        or own.get("max_sequence_length")
        or own.get("n_positions")
    )
    longest = end - first if type(end) is int else None
    length = said.get("length") or longest
    if type(length) is not int or not 1 <= length <= (longest or length):
        raise UserError(
            f"host.length is {quoted(length)}: the network has up to {longest} positions"
        )
    sizes = {
        "vocab_size": vocab,
        "hidden_size": _number(own, ("hidden_size", "dim", "d_model"), origin, "hidden_size"),
        "num_blocks": _number(
            own, ("num_hidden_layers", "n_layers", "num_layers"), origin, "num_hidden_layers"
        ),
        "length": length,
        "mask": mask,
        "pad": pad,
        "first_position": first,
        "positions_end": end if type(end) is int else None,
        **{
            name: getattr(row, name)
            for name in ("shift", "attention", "block", "attention_argument")
        },
        **{name: getattr(row, name) for name in ("embedding", "head", "blocks")},
        "config": {k: v for k, v in config.items() if k not in NOT_OURS},
    }
    return sizes, tuple(sorted(token for token in barred if 0 <= token < vocab)), row


def _pad(
    said: Any, told: Special, spare: range, ends: set[Any], mask: int, barred: set[int]
) -> int | None:
    """Return an id that no text has: what the user says, the tokenizer's padding, or a spare one.

    The end of text is none: there it would be hidden from attention.
    """
    if said is not None:
        return whole(said, "host.pad")
    if told.pad is not None and told.pad not in ends and told.pad != mask:
        return told.pad
    if len(spare):
        return next((token for token in spare if token != mask), None)
    return min((token for token in barred if token != mask), default=None)


def _number(config: Mapping[str, Any], names: tuple[str, ...], origin: str, asked: str) -> int:
    for name in names:
        if type(config.get(name)) is int:
            return int(config[name])
    raise UserError(f"the config.json of {origin} does not say {asked}")


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {each for each in values if type(each) is int}


def _json(path: Path) -> dict[str, Any]:
    """Return what a file says; {} where there is none, or no such file."""
    try:
        found = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
