"""Every limit names itself and what lifts it, and is lifted by it."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin import load_student, load_teacher
from di4c_plugin.checkpoints.description import read_description
from di4c_plugin.checkpoints.stubs import plain
from di4c_plugin.checkpoints.torch_file import read_torch
from di4c_plugin.data.array_files import load_arrays
from di4c_plugin.data.picture_files import open_picture
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.record import read_report
from di4c_plugin.limits import regular
from di4c_plugin.plain_files import read_json, read_yaml
from tests.campaigns.outcome import limited


def picture(folder: Path) -> Callable[[], object]:
    """A black picture of 200 megapixels, more than Pillow itself would open."""
    path, rows = folder / "x.png", zlib.compressobj()

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    data = b"".join(rows.compress(bytes(20001)) for _ in range(10000)) + rows.flush()
    header = struct.pack(">IIBBBBB", 20000, 10000, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return lambda: open_picture(path, 1)


def arrays(folder: Path) -> Callable[[], object]:
    np.savez_compressed(folder / "x.npz", codes=np.zeros(2**24, np.int64))
    return lambda: load_arrays(folder / "x.npz", "codes", "no archive")


def expanded(folder: Path) -> Callable[[], object]:
    torch.save({"state_dict": {"a": torch.zeros(1).expand(2**25)}}, folder / "x.ckpt")
    return lambda: read_torch(folder / "x.ckpt")


def many(folder: Path) -> Callable[[], object]:
    tensor = torch.zeros(1).expand(2**22)
    weights = {"vocab_embed.embedding": torch.zeros(7, 24)} | {f"w{n}": tensor for n in range(9)}
    torch.save({"state_dict": weights}, folder / "x.ckpt")
    return lambda: load_teacher(folder / "x.ckpt")


def yaml(folder: Path) -> Callable[[], object]:
    (folder / "x.yaml").write_text("a: " + "x" * 70_000)
    return lambda: read_yaml(folder / "x.yaml")


def json(folder: Path) -> Callable[[], object]:
    (folder / "x.json").write_text("[" + "1, " * 10**5 + "1]")
    return lambda: read_json(folder / "x.json")


def stubs(folder: Path) -> Callable[[], object]:
    return lambda: plain([0] * 10**6)


def description(folder: Path) -> Callable[[], object]:
    return lambda: read_description('{"x": "' + "x" * 2**22 + '"}', "x")


KINDS = (picture, arrays, expanded, many, yaml, json, stubs, description)


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_says_what_lifts_it(
    kind: Callable[[Path], Callable[[], object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, before = kind(tmp_path), Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match=r"\(DI4C_LIMITS=off lifts this limit\)$"):
        read()
    monkeypatch.setenv("DI4C_LIMITS", "off")
    if kind in (many, description):  # no model, whatever its size
        with pytest.raises(UserError, match="^((?!DI4C_LIMITS).)*$"):
            read()
    else:
        read()
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="it is no regular file"):
        regular(pipe)
    assert regular(tmp_path) == tmp_path
    assert regular(tmp_path / "nowhere") == tmp_path / "nowhere"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", read_json),
        ("config.json", read_yaml),
        ("codes.npy", lambda path: load_arrays(path, "", "no array")),
        ("report.json", read_report),
        ("student.safetensors", lambda path: load_student(path.parent)),
        ("config.json", lambda path: load_teacher(path.parent)),
        ("model.safetensors", lambda path: load_teacher(path.parent)),
    ],
)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, name: str, read: Any) -> None:
    os.mkfifo(tmp_path / name)
    with limited(), pytest.raises(UserError):
        read(tmp_path / name)
