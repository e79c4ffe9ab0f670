import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from di4c_plugin.checkpoints.weights import Weights, fingerprint, read_weights
from di4c_plugin.errors import UserError
from tests.stand_ins import dit_files
from tests.stand_ins.dit_files import CONFIGS, in_module, lightning, state


def same(found: Weights, weights: dict[str, Tensor]) -> bool:
    return found.tensors.keys() == weights.keys() and all(
        found.tensors[name].equal(weights[name]) for name in weights
    )


@pytest.mark.parametrize("host", ["mdlm", "sdtt", "duo"])
@pytest.mark.parametrize("ema", [True, False])
def test_a_checkpoint_of_a_host_gives_averages_weights_and_config(
    host: str, ema: bool, tmp_path: Path
) -> None:
    plain, averaged = state(seed=0), state(seed=1)
    path = lightning(tmp_path / "last.ckpt", host, plain, list(averaged.values()))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_weights(path, ema=ema)
    assert same(found, averaged if ema else plain)
    assert {k: found.config[k] for k in CONFIGS[host]} == CONFIGS[host]
    assert (found.latent, found.process, found.notes) == (None, None, {})
    assert found.origin == str(path)


def test_averages_of_a_learnt_noise_schedule_come_last(tmp_path: Path) -> None:
    averaged = state(seed=1)
    averages = [*averaged.values(), torch.tensor(2.0)]
    path = lightning(tmp_path / "last.ckpt", "mdlm", state(), averages, noise=True)
    assert same(read_weights(path), averaged)


def test_a_checkpoint_without_averages_gives_its_weights(tmp_path: Path) -> None:
    assert same(read_weights(lightning(tmp_path / "x.ckpt", "mdlm", state())), state())


@pytest.mark.parametrize(
    "averages",
    [
        lambda values: values[:-1],
        lambda values: [*values, values[0], values[0]],
        lambda values: values[::-1],
        lambda values: [None] * len(values),
    ],
)
def test_averages_that_do_not_fit_are_refused(averages: Any, tmp_path: Path) -> None:
    wrong = averages(list(state().values()))
    path = lightning(tmp_path / "last.ckpt", "mdlm", state(), wrong)
    with pytest.raises(UserError, match="^the EMA of .*last.ckpt does not fit: [^\n]*$"):
        read_weights(path)
    assert same(read_weights(path, ema=False), state())


def test_our_checkpoints_name_their_averages(tmp_path: Path) -> None:
    plain, averaged = state(latent=True), state(latent=True, seed=1)
    names = [f"backbone.{name}" for name in reversed(averaged)]
    notes = {
        "format": 1,
        "latent": {"name": "token", "dim": 1},
        "process": {"name": "absorbing", "num_tokens": 7, "mask": 6, "schedule": "loglinear"},
        "ema_names": names,
        "teacher": {"source": "somewhere", "weights": state(seed=2)},
    }
    averages = [averaged[name.removeprefix("backbone.")] for name in names]
    found = read_weights(lightning(tmp_path / "x", "mdlm", plain, averages, di4c=notes))
    assert same(found, averaged)
    assert (found.latent, found.process) == (notes["latent"], notes["process"])
    assert found.notes["teacher"] == {"source": "somewhere"}
    bare = notes | {"ema_names": [name.removeprefix("backbone.") for name in names]}
    assert same(
        read_weights(lightning(tmp_path / "y", "mdlm", plain, averages, di4c=bare)), averaged
    )


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "backbone.",
        "backbone.backbone.",
        "module.backbone.",
        "_orig_mod.backbone.",
        "backbone._orig_mod.",
        "module.",
        "_forward_module.backbone._fsdp_wrapped_module.",
        "network.",
        "model.",
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "plain", "state_dict", "model"])
def test_prefixes_go(prefix: str, kind: str, tmp_path: Path) -> None:
    content: dict[str, Any] = in_module(state(), prefix)
    others = {"noise.sigma_max": torch.ones(1), "teacher.vocab_embed.embedding": torch.ones(1)}
    content |= others | {"train_metrics.nll.mean_value": torch.ones(())}
    if kind == "safetensors":
        save_file(content, tmp_path / "file")
    else:
        torch.save(content if kind == "plain" else {kind: content, "step": 3}, tmp_path / "file")
    found = read_weights(tmp_path / "file")
    assert same(found, state())
    assert found.config["head_size"] == dit_files.HIDDEN // dit_files.HEADS


def test_wrapped_blocks_lose_the_wrappers_in_their_midst(tmp_path: Path) -> None:
    wrapped = {name.replace("blocks.0.", "blocks.0._orig_mod."): v for name, v in state().items()}
    torch.save(in_module(wrapped), tmp_path / "file.pth")
    assert same(read_weights(tmp_path / "file.pth"), state())


def test_official_students_have_a_token_latent(tmp_path: Path) -> None:
    path = lightning(tmp_path / "sdtt6-di4c2.ckpt", "sdtt", state(latent=True))
    found = read_weights(path)
    assert found.latent == {"name": "token"}
    assert same(found, state(latent=True))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_snapshot_folder_is_read_with_its_config(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dit_files.HUB_CONFIG))
    save = save_file if name.endswith("safetensors") else torch.save
    save({f"backbone.{k}": v for k, v in state().items()}, tmp_path / name)
    for source in (tmp_path, tmp_path / name, str(tmp_path)):
        found = read_weights(source)
        assert same(found, state())
        assert found.config == dit_files.HUB_CONFIG


def test_the_fingerprint_tells_names_types_and_values() -> None:
    weights = state()
    changed = [
        weights | {"sigma_map.mlp.0.bias": weights["sigma_map.mlp.0.bias"] + 1e-6},
        weights | {"sigma_map.mlp.0.bias": weights["sigma_map.mlp.0.bias"].double()},
        {f"x{name}": tensor for name, tensor in weights.items()},
        {name: t.bfloat16() for name, t in weights.items()},
    ]
    prints = {fingerprint(each) for each in [weights, *changed]}
    assert len(prints) == 5
    assert fingerprint(dict(reversed(weights.items()))) == fingerprint(weights)


def test_the_file_may_be_overwritten_while_its_weights_are_in_use(tmp_path: Path) -> None:
    path = lightning(tmp_path / "last.ckpt", "mdlm", state())
    found = read_weights(path)
    path.write_bytes(b"")
    assert same(found, state())


def test_the_mask_of_the_tokenizer_is_known(tmp_path: Path) -> None:
    path = lightning(tmp_path / "x.ckpt", "mdlm", state(), mask=True)
    assert read_weights(path).config["mask_index"] == 2
    path = lightning(tmp_path / "x.ckpt", "mdlm", state())
    assert "mask_index" not in read_weights(path).config


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    bomb: Any = Bomb(tmp_path / "evil")
    path = lightning(tmp_path / "x.ckpt", "mdlm", state(), callbacks={"x": bomb}, di4c=bomb)
    assert same(read_weights(path), state())
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such model file: .*file"),
        (b"junk", ".*file is not a torch checkpoint"),
        (b"12345678{junk", ".*file is not a readable safetensors file: "),
        ({"w": torch.ones(1)}, ".*file holds no weights of a DiT"),
        ({"state_dict": {"teacher.vocab_embed.embedding": torch.ones(1)}}, ".*file holds no w"),
        (torch.ones(1), ".*file is not a checkpoint: it holds no dict but Tensor"),
    ],
)
def test_what_is_no_teacher_gives_one_line(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        read_weights(path)


def test_folders_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither model.safetensors nor pytorch_model.bin$"):
        read_weights(tmp_path)
    (tmp_path / ".metadata").touch()
    with pytest.raises(UserError, match="is a sharded checkpoint; save it whole"):
        read_weights(tmp_path)


def test_half_precision_stays_as_it_is(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in state().items()}
    save_file(half, tmp_path / "half.safetensors")
    assert same(read_weights(tmp_path / "half.safetensors"), half)
    assert math.isfinite(float(half["vocab_embed.embedding"].float().sum()))
