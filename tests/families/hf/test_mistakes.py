"""What is wrong with a folder, or said of it, is told in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from di4c_plugin.errors import UserError
from tests.families.hf.snapshots import TOKENS, load_teacher, native

HF = {"name": "hf"}


def bad_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))


def no_mask(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def changed(folder: Path, **tensors: Tensor | None) -> None:
    file = folder / "model.safetensors"
    names = {k.replace("__", "."): v for k, v in tensors.items()}
    whole = {k: v for k, v in load_file(file).items() if names.get(k, v) is not None}
    save_file(whole | {k: v for k, v in names.items() if v is not None}, file)


def lost(folder: Path) -> None:
    changed(folder, bert__encoder__layer__0__output__dense__weight=None)


def more(folder: Path) -> None:
    changed(folder, bert__encoder__layer__7__output__dense__weight=torch.ones(2))


def untied(folder: Path) -> None:
    changed(folder, cls__predictions__decoder__weight=torch.ones(TOKENS, 16))


def configured(**entries: Any) -> Any:
    """Return what writes other entries into config.json."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))

    return spoil


def half_a_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:100])


def listed_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[1]")


@pytest.mark.parametrize(
    ("spoil", "said", "message"),
    [
        (
            configured(intermediate_size=[1]),
            {},
            "cannot be made: .*'intermediate_size'",
        ),
        (configured(hidden_act="\x1b[31m"), {}, "cannot be made: BertForMaskedLM cannot be made: "),
        (
            configured(vocab_size=10**9),
            {},
            "says 'vocab_size' 1000000000, and its",
        ),
        (
            configured(num_hidden_layers=10**9),
            {},
            "'num_hidden_layers' 1000000000, and",
        ),
        (
            configured(max_position_embeddings=10**9),
            {},
            "'max_position_embeddings' 1000000000, and",
        ),
        (half_a_tokenizer, {}, "tokenizer.json is not readable: Unterminated string"),
        (
            listed_tokenizer,
            {},
            "tokenizer_config.json is not readable: it is a list",
        ),
        (bad_class, {}, "no masked language model 'nonesuch'"),
        (no_mask, {}, "say host.mask="),
        (no_config, {}, "no config.json"),
        (pickled, {}, "pickled weights"),
        (lost, {}, "missing bert.encoder.layer.0.output.dense.weight"),
        (more, {}, "unexpected bert.encoder.layer.7"),
        (untied, {}, "are one weight, and differ"),
        (None, {"length": 25}, "up to 24 positions"),
        (None, {"dtype": "int8"}, "host.dtype is 'int8'"),
        (None, {"attention": "causal"}, "there are full, blocks"),
        (None, {"attention": "blocks"}, "goes with host.block="),
        (None, {"mask": 99}, "does not say its mask token"),
        (configured(hidden_dropout_prob=float("nan")), {}, "says 'hidden_dropout_prob' nan"),
        (None, {"pad": 40}, "host.pad is 40: the ids are 0 ... 39, and 4 the mask"),
        (None, {"pad": 4}, "host.pad is 4: the ids are 0 ... 39, and 4 the mask"),
        (None, {"barred": [5, 40]}, "host.barred is 40: the ids are 0 ... 39"),
        (None, {"barred": ["a"]}, "barred.* whole number"),
        (None, {"embedding": "x"}, "^host.embedding: BertForMaskedLM has no 'x'"),
        (None, {"head": "cls.decoder"}, "^host.head: .* has no 'cls.decoder'"),
        (None, {"blocks": "bert.layer"}, "^host.blocks: .* has no 'bert.layer'"),
        (None, {"trust_remote_code": "yes"}, "trust_remote_code must be true or false"),
    ],
)
def test_mistakes_end_in_one_line(
    spoil: Any, said: dict[str, Any], message: str, tmp_path: Path
) -> None:
    native("bert", tmp_path)
    if spoil is not None:
        spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(tmp_path, host=HF | said)
    assert "\n" not in str(caught.value)
