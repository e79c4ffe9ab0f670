"""Files that lie about what is in them, read through the doors that users have: one line each.

Every field of a description, every place where a reader could be led elsewhere, sizes without what
they are sizes of, and pickles that want more than to be read.
"""

import copy
import io
import json
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from di4c_plugin import load_student, load_teacher, sample
from di4c_plugin.checkpoints.pickles import read_plain
from di4c_plugin.data.codes import read_codes, read_levels
from di4c_plugin.evaluation.folder import read_picture
from di4c_plugin.evaluation.statistics import read_statistics
from di4c_plugin.plain_files import read_json, read_yaml
from di4c_plugin.training.folder import read_config, recorded
from tests.campaigns.outcome import Tally
from tests.campaigns.test_mutated_files import write_all
from tests.checkpoints import hostile
from tests.checkpoints.model_files import read_file

GONE = object()
VALUES: list[Any] = [
    *(0, -1, 1.5, float("nan"), float("inf"), 10**9, 10**12, 10**30, True, None),
    *("x", "\x1b[31m", [], [1], {}, {"a": 1}, [[1]], GONE),
]
WHOLE = ["[1]", "1", '"x"', "null", "true", "NaN", "{", "[" * 9999, '{"format": 1}', "9" * 5000]
touched: list[str] = []
watched: list[str] = []


def _notice(event: str, arguments: tuple[Any, ...]) -> None:
    if watched and event in ("open", "os.remove", "os.rename", "os.system", "subprocess.Popen"):
        touched.extend(f"{event} {a}" for a in arguments if str(a).startswith(watched[0]))
    if watched and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        touched.append(event)


sys.addaudithook(_notice)


@pytest.fixture(autouse=True)
def precious(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing may look into, let alone change."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    touched.clear()
    watched.append(str(tmp_path / "precious"))
    yield tmp_path / "precious"
    watched.clear()
    assert touched == []
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["file"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from places(each, (*place, key))


def changed(description: Any, place: tuple[Any, ...], value: Any) -> Any:
    description = copy.deepcopy(description)
    holder = description
    for key in place[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return description


def drawn(path: Path) -> None:
    sample(load_student(path), 2)


def descriptions(folder: Path, draw: random.Random, share: float) -> Tally:
    """Read model files with one or two fields changed, or another description altogether."""
    write_all(folder)
    tally, path = Tally(), folder / "x.safetensors"
    for name in ("student.safetensors", "dit.safetensors"):
        description, weights = read_file(folder / name)
        fields = list(places(description))
        texts = WHOLE + [
            json.dumps(changed(description, place, value))
            for place in fields
            for value in VALUES
            if draw.random() < share
        ]
        for text in texts:
            save_file(weights, path, metadata={"di4c": text})
            tally.read(text[:300], partial(drawn, path), named=path.name)
    return tally


def test_descriptions(tmp_path: Path) -> None:
    descriptions(tmp_path, random.Random(0), 0.5).check(400)


@pytest.mark.campaign
def test_all_descriptions(tmp_path: Path) -> None:
    descriptions(tmp_path, random.Random(0), 1).check(800)


# ---- pickles


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def number(value: int) -> bytes:
    return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)


SAME = [number((2**61 - 1) * n) for n in range(1, 20001)]  # whole numbers of one hash
PICKLES = {
    "INST": b"(S'touch x'\nios\nsystem\n.",
    "OBJ": b"(" + named("os", "system") + text("id") + b"o.",
    "REDUCE": named("os", "system") + text("id") + b"\x85R.",
    "EXT": b"\x82\x01.",
    "PERSID": b"Pabc\n.",
    "NEWOBJ_EX": named("os", "system") + b"(" + text("id") + b"t}\x92.",
    "wrong keywords": named("a", "B") + b")}K\x01K\x01s\x92.",
    "long number": b"I" + b"9" * 10**6 + b"\n.",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "text that is not there": b"\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray that is not there": b"\x96" + struct.pack("<Q", 2**40) + b"x.",
    "a frame that is not there": b"\x95" + struct.pack("<Q", 2**50) + b"N.",
    "memo": b"Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "memo of one hash": b"".join(b"Np%d\n0" % ((2**61 - 1) * n) for n in range(20000)) + b"N.",
    "keys of one hash": b"}(" + b"".join(n + b"N" for n in SAME) + b"u.",
    "a set of one hash": b"\x8f(" + b"".join(SAME) + b"\x90.",
    "deep dicts": b"}" + (text("a") + b"}") * 10**5 + b"s" * 10**5 + b".",
    "deep tuples": b")" + b"\x85" * 10**5 + b".",
    "itself": b"}q\x00" + text("state_dict") + b"h\x00s.",
    "doubled": b"]\x94" + b"".join(b"(h%ch%cl\x94" % (n, n) for n in range(100)) + b".",
    "bytes of a size": named("builtins", "bytes") + b"J\xff\xff\xff\x7f\x85R.",
    "a device": named("torch", "device") + text("\x1b[31m") + b"\x85R.",
    "a name to the terminal": named("a\x1b[31m", "B\x07") + b")R.",
    "no dict of weights": b"}" + text("state_dict") + b"]s.",
    "no averages": b"}" + text("ema") + b"}" + text("shadow_params") + b"K\x05ss.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name: str, tmp_path: Path) -> None:
    content, tally = b"\x80\x04" + PICKLES[name], Tally()
    for suffix in (".ckpt", ".pth", ".bin"):
        path = tmp_path / f"x{suffix}"
        hostile.archive(path, content)
        assert tally.read(name, partial(load_teacher, path), named=path.name) != "read"
    (tmp_path / "x.pickle").write_bytes(content)
    tally.read(name, partial(read_plain, tmp_path / "x.pickle"), named="x.pickle")
    tally.check(4)


def test_tensors_that_would_fill_the_memory(tmp_path: Path) -> None:
    tally, one = Tally(), torch.zeros(2**22)
    mark = {"vocab_embed.embedding": torch.zeros(7, 24), "first_layer.0.weight": torch.zeros(1)}
    for tensor in (torch.zeros(1).expand(2**22), one):
        for suffix in (".ckpt", ".pth"):
            path = tmp_path / f"x{suffix}"
            torch.save(mark | {f"w{n}": tensor for n in range(200)}, path)
            for read in (load_teacher, partial(load_teacher, host={"name": "maskgit", "heads": 1})):
                size = path.stat().st_size
                outcome = tally.read(suffix, partial(read, path), size, path.name)
                assert outcome != "read"
    tally.check(8)


# ---- archives


def zips(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield archives with one number of a directory changed, or something before or behind."""
    yield from {"before": b"junk" * 99 + whole, "behind": whole + b"junk" * 9}.items()
    yield from {"half": whole[: len(whole) // 2], "end only": whole[-22:]}.items()
    end, entry = whole.rindex(b"PK\5\6"), whole.index(b"PK\1\2")
    for start, offsets in ((end, range(4, 22, 2)), (entry, range(4, 46, 2)), (0, range(4, 30, 2))):
        for offset in offsets:
            for value in (0, 1, 8, 0x7FFF, 0xFFFF):
                data = bytearray(whole)
                struct.pack_into("<H", data, start + offset, value)
                yield f"{start} {offset} {value}", bytes(data)


def test_directories_of_archives(tmp_path: Path) -> None:
    tally = Tally()
    torch.save({"state_dict": {"vocab_embed.embedding": torch.zeros(3, 4)}}, tmp_path / "good.ckpt")
    np.savez(tmp_path / "good.npz", codes=np.zeros((1, 2, 2), np.int64))
    arrays = partial(read_codes, side=2, codes=4, classes=2)
    for good, read in (("good.ckpt", load_teacher), ("good.npz", arrays)):
        path = tmp_path / f"x{good[4:]}"
        for name, data in zips((tmp_path / good).read_bytes()):
            path.write_bytes(data)
            tally.read((good, name), partial(read, path), named=path.name)
    tally.check(400)


# ---- arrays, pictures, plain files


def header(shape: tuple[int, ...], kind: Any = "<i8") -> bytes:
    buffer = io.BytesIO()
    described = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def test_arrays_that_lie(tmp_path: Path) -> None:
    contents = {
        "large": header((10**11,)),
        "larger": header((10**10, 10**10)),
        "below": header((-1, 4)) + bytes(32),
        "objects": header((2,), "|O") + b"cos\nsystem\n(S'id'\ntR.",
        "records": header((10**9,), [("a", "<i4"), ("b", "<f8")]),
        "nothing": header((10**10,), "|V0"),
        "text": header((4,), "<U100000000"),
        "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"x",
        "a deep header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    }
    tally = Tally()
    readers: list[Callable[..., Any]] = [
        partial(read_codes, side=2, codes=4, classes=2),
        partial(read_levels, shape=(1, 2, 2), levels=4),
        partial(read_statistics, expected={}),
    ]
    for name, content in contents.items():
        (tmp_path / "x.npy").write_bytes(content)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            for array in ("codes", "levels", "mu", "sigma", "record"):
                archive.writestr(f"{array}.npy", content)
        for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
            for read in readers:
                assert tally.read(name, partial(read, path), named=path.name) != "read"
    tally.check(54)


def test_an_archive_of_zeros(tmp_path: Path) -> None:
    path, tally = tmp_path / "x.npz", Tally()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("codes.npy", "w", force_zip64=True) as member,
    ):
        member.write(header((2**17, 32, 32)))
        for _ in range(64):
            member.write(bytes(2**24))
    assert path.stat().st_size < 2**23
    tally.read("zeros", partial(read_codes, path, side=32, codes=4, classes=2), named=path.name)
    tally.check(1)
    assert tally.counts["refused"] == 1


def test_pictures(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    good, tally, path = (tmp_path / "good.png").read_bytes(), Tally(), tmp_path / "x.png"
    size = struct.pack(">IIBBBBB", 13000, 13000, 8, 0, 0, 0, 0)
    bomb = zlib.compress(bytes(10**8))
    contents = {
        "169 megapixels": good[:8] + chunk(b"IHDR", size) + good[33:],
        "text": good[:33] + chunk(b"zTXt", b"a\0\0" + bomb) + good[33:],
        "profile": good[:33] + chunk(b"iCCP", b"a\0\0" + bomb) + good[33:],
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%id) (r) file\n",
    }
    for name, content in contents.items():
        path.write_bytes(content)
        tally.read(name, partial(read_picture, path, (1, 8, 8)), named=path.name)
    tally.check(4)
    assert tally.counts["refused"] >= 2


YAML = {
    "aliases": "a: &a [x, x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(9 * [f'*{chr(97 + n)}'])}]\n" for n in range(20)
    ),
    "itself": "a: &a [*a]",
    "deep": "[" * 5000,
    "base 60": "a: 1" + ":59" * 80000,
    "a long number": "a: " + "9" * 200000,
    "an object": '!!python/object/apply:os.system ["id"]',
    "a name to the terminal": 'a: "\\e[31m"\nb: !<\\e> 1',
    "long": "- 1\n" * 16000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", YAML)
def test_plain_files(name: str, tmp_path: Path) -> None:
    tally = Tally()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".hydra").mkdir()
    weights = tmp_path / "checkpoints" / "x.ckpt"
    torch.save({"state_dict": {"vocab_embed.embedding": torch.zeros(3, 4)}}, weights)
    for path in (tmp_path / "x.yaml", tmp_path / "config.yaml", tmp_path / ".hydra/config.yaml"):
        path.write_text(YAML[name])
    (tmp_path / "run.json").write_text("[" * 5000)
    tally.read(name, partial(read_yaml, tmp_path / "x.yaml"), named="x.yaml")
    tally.read(name, partial(read_json, tmp_path / "x.yaml"), named="x.yaml")
    tally.read(name, partial(read_config, tmp_path / "config.yaml"))
    tally.read(name, partial(recorded, tmp_path))
    tally.read(name, partial(load_teacher, weights))
    tally.check(5)
