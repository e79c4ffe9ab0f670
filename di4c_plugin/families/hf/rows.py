"""Facts about masked language models that their weights do not contain: a table, and options.

Whatever transformers itself knows (embeddings, head, special tokens) is taken from there. The
diffusion language models are recognised by the `model_type` of their config; the ids of their masks
are those of their own generation code.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from di4c_plugin.errors import UserError, quoted

ATTENTION = ("full", "blocks")


@dataclass(frozen=True)
class Row:
    """How a network is called.

    Attributes:
        mask: id of the mask token; None: the tokenizer's.
        shift: whether the logits at position i are of token i + 1.
        attention: "full": each position sees all, with a mask (B, D) where there is padding;
            "blocks": it sees its own block and those before, by a mask (B, 1, D, D).
        block: size of the blocks, for "blocks".
        attention_argument: the name of the argument that takes a mask (B, 1, D, D).
        embedding: name of the sub-module; None: what `get_input_embeddings` returns.
        head: name of the linear layer; None: what `get_output_embeddings` returns.
        blocks: name of the list of blocks; None: the outermost one.
        barred: ids that are never predicted, beside the mask and those beyond the tokenizer's.
            The default is the tokenizer's special tokens, without the end of text.
    """

    mask: int | None = None
    shift: bool = False
    attention: str = "full"
    block: int | None = None
    attention_argument: str = "attention_mask"
    embedding: str | None = None
    head: str | None = None
    blocks: str | None = None
    barred: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION:
            known = ", ".join(ATTENTION)
            raise UserError(f"host.attention is {quoted(self.attention)}: there are {known}")
        if (self.attention == "blocks") != (self.block is not None):
            raise UserError("host.attention=blocks goes with host.block=, its size")
        if self.block is not None and (type(self.block) is not int or self.block < 1):
            raise UserError(f"host.block is {quoted(self.block)}: it must be at least 1")


SAID: Mapping[str, Any] = {
    **dict.fromkeys(("mask", "block"), int),
    **dict.fromkeys(("attention", "attention_argument", "embedding", "head", "blocks"), str),
    "shift": bool,
    "barred": tuple[int, ...],
}

# By `model_type`. DiffuCoder's files say Dream.
ROWS: Mapping[str, Row] = {
    "llada": Row(mask=126336, attention_argument="attention_bias"),
    "dream": Row(mask=151666, shift=True),
    "diffucoder": Row(mask=151666, shift=True),
    "llada2_moe": Row(mask=156895, attention="blocks", block=32),
    "sdar": Row(mask=151669, attention="blocks", block=4),
    "sdar_moe": Row(mask=151669, attention="blocks", block=4),
}


def row_of(config: Mapping[str, Any], options: Mapping[str, Any]) -> Row:
    """Return the row of a config.json, with the user's options in place of the table's values.

    Raises:
        UserError: for invalid values.
    """
    row = ROWS.get(str(config.get("model_type", "")).lower(), Row())
    if row.attention == "blocks" and isinstance(config.get("block_size"), int):
        row = replace(row, block=config["block_size"])
    overrides = {name: options[name] for name in SAID if options.get(name) is not None}
    if overrides.get("attention") == "full":
        row = replace(row, attention="full", block=None)
    if "barred" in overrides:
        overrides["barred"] = tuple(token_id(value, "host.barred") for value in overrides["barred"])
    if "mask" in overrides:
        overrides["mask"] = token_id(overrides["mask"], "host.mask")
    return Row(**{**asdict(row), "barred": row.barred, **overrides})


def token_id(value: Any, name: str) -> int:
    """Return a token's id; raises UserError for anything else."""
    if type(value) is not int or value < 0:
        raise UserError(f"{name} is {quoted(value)}: no id of a token")
    return value
