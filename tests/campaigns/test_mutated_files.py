"""Valid files with bytes flipped, cut, doubled or exchanged: a model, or one line; nothing else."""

import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin import load_student, load_teacher, sample
from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.data.codes import code_of, read_codes
from di4c_plugin.diffusion import Absorbing, LogLinear
from di4c_plugin.evaluation.folder import read_picture
from di4c_plugin.families import new_model
from di4c_plugin.families.registry import family_named
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.plain_files import read_json, read_yaml
from di4c_plugin.training.folder import recorded
from tests.campaigns.outcome import Tally
from tests.stand_ins import dit_files

Read = Callable[[Path], Any]


def drawn(load: Callable[[Path], Any]) -> Read:
    """Read a model, and sample from it: what was read must be one."""
    return lambda path: sample(load(path), 2, steps=2)


def write_all(folder: Path) -> dict[str, Read]:
    """Write a valid file of each kind; return what reads it, by name."""
    torch.manual_seed(0)
    process = Absorbing(3)
    sizes = TransformerConfig(3, 4, (2, 2), (1, 2), hidden_size=8, embedding_size=4, num_heads=2)
    new_model(sizes, process).save(folder / "teacher.safetensors")
    latent = {"name": "adaln", "dim": 1, "features": 8}
    student = new_model(sizes, process, latent)
    own = {"steps": 2, "sampler": "ancestral", "latents": "fresh", "last_latents": 2}
    replace(student, sampling=own).save(folder / "student.safetensors")
    dit = DiTConfig(vocab_size=5, length=4, hidden_size=8, cond_dim=4, n_blocks=1, n_heads=2)
    model = new_model(dit, Absorbing(5, LogLinear(1e-3), mask=4), {"name": "token", "features": 8})
    model.save(folder / "dit.safetensors")
    dit_files.lightning(folder / "host.ckpt", "mdlm", dit_files.state())
    maskgit = {"first_layer.0.weight": torch.ones(3), "tok_emb.weight": torch.ones(9, 2)}
    torch.save({"model_state_dict": maskgit}, folder / "maskgit.pth")
    torch.save(maskgit, folder / "old.pth", _use_new_zipfile_serialization=False)
    codes = np.arange(8).reshape(2, 2, 2) % 4
    np.savez(folder / "codes.npz", codes=codes, labels=np.array([0, 1]))
    np.savez_compressed(folder / "packed.npz", codes=codes)
    np.save(folder / "codes.npy", codes)
    (folder / "code.pickle").write_bytes(pickle.dumps({"code": codes[0], "y": 1}))
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text('{"di4c_run": 1, "files": ["config.yaml"]}')
    (folder / "config.yaml").write_text("model: {params: {n_embed: 4, a: [1, 2.5, x]}}\n")
    (folder / "config.json").write_text('{"model_type": "mdlm", "n_heads": 3}')
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        grey.save(folder / f"picture.{suffix}")
    read_npz: Read = lambda p: read_codes(p, side=2, codes=4, classes=2)  # noqa: E731
    pictures: dict[str, Read] = {
        f"picture.{suffix}": lambda p: read_picture(p, (1, 8, 8))
        for suffix in ("png", "jpg", "bmp", "tif", "webp")
    }
    return pictures | {
        "teacher.safetensors": drawn(load_teacher),
        "student.safetensors": drawn(load_student),
        "dit.safetensors": drawn(load_student),
        "host.ckpt": drawn(load_teacher),
        "maskgit.pth": lambda p: family_named("maskgit", "").read(read_content(p)),
        "old.pth": lambda p: family_named("maskgit", "").read(read_content(p)),
        "codes.npz": read_npz,
        "packed.npz": read_npz,
        "codes.npy": read_npz,
        "code.pickle": code_of,
        "run/run.json": lambda p: recorded(p.parent),
        "config.yaml": read_yaml,
        "config.json": read_json,
    }


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """Return the bytes with one to four changes, most of them near the front, where headers are."""
    data = bytearray(whole)
    for _ in range(draw.randint(1, 4)):
        size = max(len(data), 1)
        at = draw.randrange(min(size, 400) if draw.random() < 0.6 else size)
        length = draw.choice([1, 2, 8, 64])
        kind = draw.randrange(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] = draw.choice(
                [0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)]
            )
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            other = draw.randrange(size)
            data[at : at + length] = data[other : other + length]
        else:
            data[at : at + length] = draw.randbytes(length)
    return bytes(data)


def campaign(folder: Path, rounds: int, seed: int) -> None:
    (folder / "good").mkdir()
    (folder / "bad" / "run").mkdir(parents=True)
    readers, draw, tally = write_all(folder / "good"), random.Random(seed), Tally()
    (folder / "precious").write_text("precious")
    for name, read in readers.items():
        whole = (folder / "good" / name).read_bytes()
        read(folder / "good" / name)
        path = folder / "bad" / name
        for number in range(rounds):
            path.write_bytes(mutated(whole, draw))
            what = (name, seed, number)
            tally.read(what, partial(read, path), len(whole))
        path.unlink()
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}
    wanted = {"precious", *(f"good/{name}" for name in readers)}
    assert there == wanted
    tally.check(rounds * len(readers))


def test_a_few_of_each_kind(tmp_path: Path) -> None:
    campaign(tmp_path, 60, seed=1)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(5))
def test_many_of_each_kind(seed: int, tmp_path: Path) -> None:
    campaign(tmp_path, 400, seed=100 + seed)
