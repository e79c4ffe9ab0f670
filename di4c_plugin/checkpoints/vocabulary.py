"""The tokens of a text model, as a fingerprint that is compared wherever two models meet.

Two tokenizers may have equally many tokens: weights of one then load into a program with the other,
and the text is garbage.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from di4c_plugin.checkpoints.stubs import Inert
from di4c_plugin.errors import UserError, quoted
from di4c_plugin.limits import regular

FILE = "tokenizer.json"  # of a snapshot folder: all tokens, added ones too
MOST = 2**26  # bytes of it
ENTRY = "vocabulary"  # of a description, or of its info


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model.

    Attributes:
        name: of the tokenizer.
        size: number of tokens, without the mask.
        sha256: over sorted pairs (token, id), without the mask.
    """

    name: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name or 'without a name'} ({self.size} tokens, sha256 {self.sha256[:12]})"

    def check(self, other: "Vocabulary", one: str, another: str) -> None:
        """Refuse another vocabulary than this one, which is that of `one`.

        Raises:
            UserError: naming both.
        """
        if self.sha256 != other.sha256:
            raise UserError(
                f"{one} has the tokenizer {self}, {another} has {other}: the same numbers stand "
                "for other tokens"
            )


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a file or a program: a name, or "", and ids by token."""

    name: str
    ids: Mapping[str, int] = field(default_factory=dict)

    def vocabulary(self, process: Mapping[str, Any]) -> Vocabulary | None:
        """Return the vocabulary of a model with this process; None where there are no ids.

        Without the mask, and without tokens that have no embedding: programs add some that never
        occur in a text.
        """
        ids = {k: i for k, i in self.ids.items() if 0 <= i < process["num_tokens"]}
        pairs = sorted((token, i) for token, i in ids.items() if i != process.get("mask"))
        if not pairs:
            return None
        digest = hashlib.sha256()
        for token, i in pairs:
            digest.update(f"{token}\0{i}\n".encode("utf-8", "surrogatepass"))
        return Vocabulary(self.name, len(pairs), digest.hexdigest())


# ---- where tokenizers are found


def live_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """Return the tokens of a tokenizer object of transformers; None without `get_vocab`."""
    if not callable(getattr(tokenizer, "get_vocab", None)):
        return None
    name = str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__
    return Tokenizer(without_folder(name), tokenizer.get_vocab())


def pickled_tokenizer(tokenizer: Any) -> Tokenizer | None:
    """Return the tokens that the stub of a pickled tokenizer recorded; None for other objects."""
    if not isinstance(tokenizer, Inert):
        return None
    name = tokenizer.get("name_or_path") or tokenizer.path.rpartition(".")[2]
    return Tokenizer(without_folder(str(name)), _recorded(tokenizer))


def tokenizer_beside(weights: Path, name: str) -> Tokenizer | None:
    """Return the tokenizer in the folder of a file of weights; None without a readable one."""
    path = weights.with_name(FILE)
    try:
        if regular(path).stat().st_size > MOST:
            return None
        ids = _described(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return Tokenizer(without_folder(name), ids) if ids else None


def configured_tokenizer(config: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer that a host's config names, without its ids; None if it names none."""
    for group, key in (("data", "tokenizer_name_or_path"), ("tokenizer", "name")):
        section = config.get(group)
        name = section.get(key) if isinstance(section, Mapping) else None
        if isinstance(name, str):
            return Tokenizer(without_folder(name))
    return None


def without_folder(name: str) -> str:
    """Return the name of a tokenizer, without the path of a folder on this machine."""
    kind = PureWindowsPath if "\\" in name else PurePosixPath
    return kind(name).name if kind(name).is_absolute() else name


def mask_index(tokenizer: Any) -> int | None:
    """Return the id of the mask token that a stub of a transformers tokenizer recorded."""
    if not isinstance(tokenizer, Inert):
        return None
    special = tokenizer.get("_special_tokens_map")
    token = special.get("mask_token") if isinstance(special, Mapping) else None
    token = tokenizer.get("_mask_token") if token is None else token
    token = token.get("content") if isinstance(token, Inert) else token
    return _recorded(tokenizer).get(token) if isinstance(token, str) else None


def _recorded(tokenizer: Inert) -> dict[str, int]:
    """Return ids by token from the forms a tokenizer takes: fast ones, or MDLM's text8."""
    simple = tokenizer.get("_vocab_str_to_int")
    if isinstance(simple, dict):
        return _ids(simple.items())
    fast = tokenizer.get("_tokenizer")
    return _described(fast.state) if isinstance(fast, Inert) else {}


def _described(text: Any) -> dict[str, int]:
    """Return ids by token from JSON of the tokenizers library; {} for anything else."""
    try:
        content = json.loads(text)
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # of Unigram: pairs of token and score, by their ids
            vocabulary = {pair[0]: i for i, pair in enumerate(vocabulary)}
        added = [(entry["content"], entry["id"]) for entry in content.get("added_tokens") or []]
        return _ids([*vocabulary.items(), *added])
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return {}


def _ids(pairs: Any) -> dict[str, int]:
    return {k: i for k, i in pairs if isinstance(k, str) and type(i) is int}


# ---- what a description says


def vocabulary_in(info: Mapping[str, Any], origin: str) -> Vocabulary | None:
    """Return the vocabulary in a description or a model's info; None if there is none.

    Raises:
        UserError: if it is damaged.
    """
    entry = info.get(ENTRY)
    if entry is None:
        return None
    values = entry if isinstance(entry, Mapping) else {}
    name, size, sha256 = (values.get(key) for key in ("name", "size", "sha256"))
    if isinstance(name, str) and type(size) is int and isinstance(sha256, str):
        return Vocabulary(name, size, sha256)
    raise UserError(
        f"the description of the model in {origin} is damaged: vocabulary is {quoted(entry)}"
    )


def entry_of(vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Return the entry for a description or for info; {} for None."""
    return {} if vocabulary is None else {ENTRY: asdict(vocabulary)}


def check_models(
    one: Mapping[str, Any], another: Mapping[str, Any], name: str, other_name: str
) -> None:
    """Refuse two models whose infos have different vocabularies.

    Raises:
        UserError: naming both.
    """
    first, second = vocabulary_in(one, name), vocabulary_in(another, other_name)
    if first is not None and second is not None:
        first.check(second, name, other_name)
