"""The `sampler` group of a host's config: the choice of our sampler, and its options."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from di4c_plugin.checkpoints.torch_file import read_torch
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.limits import regular
from di4c_plugin.options import fit_fields
from di4c_plugin.samplers import sampler_options
from di4c_plugin.samplers.known import known_tokens
from di4c_plugin.values import Count


@dataclass(frozen=True)
class SamplerSettings:
    """The options of `configs/sampler/*.yaml`.

    Attributes:
        name: a registered sampler.
        steps: network calls per sample; None: the host's number.
        teacher: source of the teacher of "hybrid".
        prefix: text at the beginning of every sample.
        known: path of token ids, -1 where unknown: JSON or .pt, (D,) or (n, D).
        options: passed to the sampler.

    Raises:
        UserError: for a value of the wrong type or out of range.
    """

    name: str = "ancestral"
    steps: Count | None = None
    teacher: str | None = None
    prefix: Any = None  # `prefix_ids` says what YAML made of a text without quotes
    known: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check types and ranges."""
        fit_fields(self, "sampler.")


def sampler_settings(config: Mapping[str, Any] | None) -> SamplerSettings:
    """Parse the group; the default is the ancestral sampler.

    Raises:
        UserError: for an unknown sampler or option, "hybrid" without a teacher, and as
            `SamplerSettings`.
    """
    values = dict(config or {})
    fields = {k: values.pop(k, None) for k in ("steps", "teacher", "prefix", "known")}
    settings = SamplerSettings(values.pop("name", "ancestral"), **fields, options=values)
    if settings.name == "hybrid" and settings.teacher is None:
        raise UserError("sampler=hybrid needs its teacher: add sampler.teacher=SOURCE")
    later = () if settings.teacher is None else ("teacher",)
    options = sampler_options(settings.name, settings.options, later=later)
    return replace(settings, options=options)


def given_by(
    settings: SamplerSettings, tokenizer: Any, shape: tuple[int, int], process: Process
) -> tuple[Tensor, Tensor] | None:
    """Return the given tokens of samples of `shape` (n, D), and their mask.

    Raises:
        UserError: as `known_tokens`, and for a file that cannot be read.
    """
    prefix, known = None, None
    if settings.prefix is not None:
        prefix = prefix_ids(settings.prefix, tokenizer)
    if settings.known is not None:
        ids = read_ids(Path(settings.known))
        known = (ids.clamp(min=0), ids >= 0)
    return known_tokens(prefix, known, *shape, process)


def prefix_ids(text: Any, tokenizer: Any) -> list[int]:
    """Return the token ids of a text.

    Raises:
        UserError: if it is not text, or has characters that the tokenizer would drop or replace by
            its unknown token.
    """
    if not isinstance(text, str):
        raise UserError(f"sampler.prefix is a text, in quotes where YAML reads {text!r:.60}")

    def ids(part: str) -> list[int]:
        ids_of_part: list[int] = tokenizer(part, add_special_tokens=False)["input_ids"]
        return ids_of_part

    unknown, plain = getattr(tokenizer, "unk_token_id", None), text
    for special in getattr(tokenizer, "all_special_tokens", ()):
        plain = plain.replace(special, "")
    missing = [c for c in dict.fromkeys(plain) if not c.isspace() and not ids(c)]
    if missing or unknown in ids(plain):
        missing = missing or [c for c in dict.fromkeys(plain) if unknown in ids(c)]
        raise UserError(
            f"sampler.prefix={text!r:.60}: the tokenizer does not know "
            + (", ".join(map(repr, missing[:5])) or "some of it")
        )
    return ids(text)


def read_ids(path: Path) -> Tensor:
    """Read token ids (D,) or (n, D) from JSON or a tensor file; raises UserError."""
    try:
        if path.suffix == ".json":
            ids = torch.tensor(json.loads(regular(path).read_text(encoding="utf-8")))
        else:
            ids = torch.as_tensor(read_torch(path))
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise ValueError(f"token ids are whole numbers, not {ids.dtype}")
        return ids.long()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the known tokens of {path}: {reason}") from error
