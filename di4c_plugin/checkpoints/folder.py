"""A model as a folder, ready for the hub: weights, config.json and a model card."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from di4c_plugin.checkpoints import adapter
from di4c_plugin.checkpoints.model import STUDENT, Model, describe, role_of, save_model
from di4c_plugin.checkpoints.model_file import described_in
from di4c_plugin.checkpoints.vocabulary import ENTRY, vocabulary_in
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write
from di4c_plugin.limits import regular
from di4c_plugin.networks.dit import DiTConfig
from di4c_plugin.plugins import names_of

# An absolute path: a whole text, or the folders of one within a text, such as a command.
WHOLE = re.compile(r"(~|[A-Za-z]:)?[/\\](?![/\\])([^=]*[/\\])?(?P<name>[^=/\\]+)[/\\]?")
PLACES = re.compile(r"(?:(?<=[\s=:'\",(\[])|^)(~|[A-Za-z]:)?[/\\](?![/\\])([^\s'\",]*[/\\])?")
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

TEMPLATE = """---
library_name: di4c_plugin
license: unknown
{tag}tags:
- discrete-diffusion
- di4c
---
# {title}

{what}

Load and sample, in any folder or from the hub, without the program it was trained in:

```python
from di4c_plugin import {load}

model = {load}("path/to/this/folder")  # or "owner/name@revision"
tokens = model.sample(4, steps=8, seed=0)
```

Weights have the names of the teacher's; `config.json` says the sizes.

| | |
|---|---|
{rows}
"""


def save_folder(model: Model, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write the model into `folder`, which is made if need be; the weights last.

    Args:
        model: teacher or student.
        folder: where to.
        overwrite: replace files of these names, whoever wrote them.

    Raises:
        UserError: if one of them exists and is not ours, before anything is written, and for errors
            of the system.
    """
    model = replace(model, info=without_places(model.info), adapter=without_places(model.adapter))
    folder, text = Path(folder), card(describe(model))
    if not overwrite:
        check_ours(folder, text)
    weights, other = WEIGHTS, adapter.WEIGHTS
    if model.adapter is not None:
        weights, other = other, weights
    if os.path.lexists(folder / other):
        raise UserError(f"{folder} holds {other}, of another model: choose another folder")
    for name, content in ((CARD, text), (CONFIG, config_json(model))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    save_model(model, folder / weights)


def check_ours(folder: Path, text: str) -> None:
    """Refuse to replace files that this module did not write.

    Args:
        folder: may not exist.
        text: the card to be written.

    Raises:
        UserError: naming the first such file: a card that differs from `text` and from that of the
            config.json beside it; a config.json or weights without a description of ours.
    """
    description = read_description(folder / CONFIG)
    ours = {
        CARD: is_card(folder / CARD, text, description),
        CONFIG: description is not None,
        WEIGHTS: has_description(folder / WEIGHTS),
        adapter.WEIGHTS: has_description(folder / adapter.WEIGHTS),
        adapter.CONFIG: has_description(folder / adapter.WEIGHTS),
    }
    for name, is_ours in ours.items():
        if os.path.lexists(folder / name) and not is_ours:
            raise UserError(
                f"{folder / name} is not as di4c wrote it, if it did: move it, choose another "
                "folder, or replace it by overwrite=True"
            )


def read_description(path: Path) -> dict[str, Any] | None:
    """Return our description of the model in a config.json; None if there is none."""
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    description = content.get("di4c") if isinstance(content, dict) else None
    return description if isinstance(description, dict) and "format" in description else None


def is_card(path: Path, text: str, description: Mapping[str, Any] | None) -> bool:
    """Return whether a file holds `text`, or the card of the model described."""
    try:
        existing = regular(path).read_text(encoding="utf-8")
        return existing == text or (description is not None and existing == card(description))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # missing, not text, or a damaged description


def has_description(path: Path) -> bool:
    """Return whether a file is a model file of ours."""
    return described_in(path) is not None


def config_json(model: Model) -> str:
    """Return the content of config.json: the sizes as on the hub, and our description."""
    sizes: dict[str, Any] = {}
    network = model.network
    if isinstance(network, DiTConfig):
        names = ("vocab_size", "cond_dim", "n_blocks", "n_heads", "time_conditioning")
        sizes = {name: getattr(network, name) for name in names}
        sizes |= {"hidden_dim": network.hidden_size, "model_length": network.length}
    content = {"model_type": "di4c"} | sizes | {"di4c": describe(model)}
    return json.dumps(content, indent=2) + "\n"


def card(description: Mapping[str, Any]) -> str:
    """Return the model card of a description (see `describe`): kind, loading, provenance."""
    is_student = role_of(description) == STUDENT
    if is_student:
        title = "A few-step student"
        kind = "A product model" if description["latent"] is None else "A mixture over a latent"
        what = f"{kind}, distilled from the teacher below by `di4c_plugin`."
    else:
        title, what = "A discrete diffusion model", "A product model, as `di4c_plugin` keeps it."
    facts = {name: description[name] for name in ("latent", "process")}
    facts |= {"sampling": description["sampling"]} if description.get("sampling") else {}
    facts |= {k: v for k, v in description["info"].items() if k != ENTRY}
    if is_text(description):
        vocabulary = vocabulary_in(description["info"], CONFIG)
        facts |= {"tokenizer": "not known" if vocabulary is None else str(vocabulary)}
    facts |= {"licence": "not known here; that of the teacher and of the data bind a student too"}
    tag = "text-generation" if is_text(description) else "unconditional-image-generation"
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items())
    load = "load_student" if is_student else "load_teacher"
    tagged = f"pipeline_tag: {tag}\n" if is_text(description) or is_pictures(description) else ""
    return TEMPLATE.format(title=title, what=what, load=load, rows=rows, tag=tagged)


def is_text(description: Mapping[str, Any]) -> bool:
    """Return whether a model's tokens are text."""
    return ENTRY in description["info"] or description.get("kind") == "dit"


def is_pictures(description: Mapping[str, Any]) -> bool:
    """Return whether a model's tokens are pictures: of an image host, or the built-in digits."""
    host = description["info"].get("host")
    name = host.get("name") if isinstance(host, Mapping) else None
    # Networks that a program builds itself have its name; the text programs share the DiT.
    return description.get("kind") in names_of("program") or name == "builtin"


def without_places(value: Any) -> Any:
    """Return plain values with this machine's absolute paths cut to their last part."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_places(inner) for inner in value)
    if isinstance(value, str):
        path = WHOLE.fullmatch(value)
        return path["name"] if path else PLACES.sub("", value)
    return value


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return "`" + text.replace("|", "\\|").replace("\n", " ") + "`"
