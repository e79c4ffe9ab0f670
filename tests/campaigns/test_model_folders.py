"""Folders of transformers, and adapters, described by strange values: a model, or one line."""

import json
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

pytest.importorskip("transformers")
pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin import distill, load_student, load_teacher, sample
from di4c_plugin.algorithms.base import Data
from tests.campaigns.outcome import Tally
from tests.campaigns.strange import NUMBERS, TEXTS
from tests.families.hf.snapshots import native

HF: dict[str, Any] = {"name": "hf"}
GONE = object()
STRANGE: list[Any] = [
    *(GONE, None, [], {}, [1], [[]], [None], ["a"], {"a": 1}, {"0": {}}, {"0": {"content": 3}}),
    *("[MASK]", "\ud800", "../x", 10**9),
    *NUMBERS,
    *TEXTS,
]
ADAPTER = "adapter/adapter_model.safetensors"
# Each file by its reader, and how often it is drawn.
FILES = ["base/config.json", "base/tokenizer.json", "base/tokenizer_config.json", ADAPTER]


def write_all(folder: Path) -> None:
    """Write a language model, and an adapter on it."""
    (folder / "base").mkdir(parents=True)
    native("bert", folder / "base")
    data = Data(torch.arange(5, 29).view(2, 12))
    distill(
        load_teacher(folder / "base", host=HF),
        data,
        algo={"name": "di4c", "latents": 2},
        training={"steps": 1, "batch_size": 1, "adapter": {"r": 2}, "logger": "none"},
        host=HF,
        out=folder / "adapter",
        progress=False,
    )


def read(path: Path) -> None:
    """Load the model, sample from it, and look whether these are texts of its own."""
    if path.name in ADAPTER:
        model = load_student(path, host=HF | {"base": str(path.parents[1] / "base")})
    else:
        model = load_teacher(path.parent, host=HF)
    x = sample(model, 2, steps=1)
    assert x.shape == (2, model.network.positions)
    assert not bool((x == model.process.config["mask"]).any())


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values inside of one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*here, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*here, key))


def spoilt(value: Any, draw: random.Random) -> str:
    """Change one value inside of `value`; return which, and what it is now."""
    path = draw.choice([p for p in places(value) if len(p) < 3 or draw.random() < 0.2])
    for key in path[:-1]:
        value = value[key]
    strange = draw.choice(STRANGE)
    if strange is GONE:
        del value[path[-1]]
    else:
        value[path[-1]] = strange
    return f"{path} {ascii(strange)[:60]}"


def changed(file: Path, draw: random.Random) -> str:
    """Change one value in a file: JSON, or that in a header of safetensors."""
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        what = spoilt(content, draw)
        file.write_text(json.dumps(content))
        return what
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = next(iter(notes))
    content = json.loads(notes[name])
    what = spoilt(content, draw)
    save_file(tensors, file, notes | {name: json.dumps(content)})
    return what


def campaign(folder: Path, count: int, seed: int) -> None:
    write_all(folder / "good")
    draw, tally = random.Random(seed), Tally()
    for name in dict.fromkeys(FILES):
        read(folder / "good" / name)
    for number in range(count):
        shutil.rmtree(folder / "bad", ignore_errors=True)
        shutil.copytree(folder / "good", folder / "bad")
        file = folder / "bad" / draw.choice(FILES)
        tally.read((seed, number, file.name, changed(file, draw)), partial(read, file))
    tally.check(count)


def test_a_few(tmp_path: Path) -> None:
    campaign(tmp_path, 60, seed=1)


@pytest.mark.campaign
def test_many(tmp_path: Path) -> None:
    campaign(tmp_path, 1000, seed=random.randrange(2**32))
