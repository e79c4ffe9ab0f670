import os
import pickle
import signal
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import load_student, load_teacher
from di4c_plugin.checkpoints.stubs import plain
from di4c_plugin.checkpoints.torch_file import load_inert, read_torch
from di4c_plugin.errors import UserError
from tests.checkpoints import hostile
from tests.checkpoints.inert import loads_inert

ONE_LINE = r"^[^\n]*{}[^\n]*$"


def refused(path: Path, match: str = "") -> None:
    with pytest.raises(UserError, match=ONE_LINE.format(match)):
        read_torch(path)


@pytest.mark.parametrize("name", ["x.ckpt", "x.pth", "x.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("load", [load_teacher, load_student], ids=lambda load: load.__name__)
@pytest.mark.parametrize(
    "write", [hostile.script, hostile.two_directories], ids=lambda f: f.__name__
)
def test_torchscript_never_runs(
    write: Callable[[Path, Path], None], load: Callable[[Path], Any], name: str, tmp_path: Path
) -> None:
    write(tmp_path / name, tmp_path / "written")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(UserError):
            load(source)
    assert not (tmp_path / "written").exists()


def test_an_archive_with_two_directories_is_what_one_reader_sees(tmp_path: Path) -> None:
    hostile.two_directories(tmp_path / "x", tmp_path / "written")
    assert load_inert(tmp_path / "x")["state_dict"]["w"].equal(torch.ones(2))
    assert not (tmp_path / "written").exists()
    torch.jit.load(tmp_path / "x")  # what torch.load would have dispatched to
    assert (tmp_path / "written").exists()


def test_a_tar_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    hostile.tar(tmp_path / "x.pt", tmp_path / "outside")

    def too_long(*_: object) -> None:
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    try:
        refused(tmp_path / "x.pt", "unsupported pickle protocol")
    finally:
        signal.alarm(0)
    assert (tmp_path / "outside").stat().st_nlink == 1


def test_an_older_file_needs_its_magic_number(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"state_dict": {}}, 2))
    refused(tmp_path / "x", "is not a torch checkpoint")
    torch.save({"w": torch.ones(3)}, tmp_path / "x", _use_new_zipfile_serialization=False)
    assert load_inert(tmp_path / "x")["w"].equal(torch.ones(3))
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data.replace(b"\xe9\x03", b"\xe8\x03", 1))  # version 1000
    refused(tmp_path / "x", "is not a torch checkpoint")


SHARED = (
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ctorch._utils\n_rebuild_parameter\n",
    "ctorch\nSize\n",
    "ctorch\nfloat32\n",
    "ctorch\nFloatStorage\n",
    "ccollections\nOrderedDict\n",
    "ccollections\nCounter\n",
    "ccollections\ndefaultdict\n",
    "cbuiltins\ndict\n",
    "c_codecs\nencode\n",
    "(ctorch\nSize\n(K\x01ttR",  # a call with another call's arguments
    "ccollections\nCounter\n)R",
    "ccollections\ndeque\n)R",
    "(lp0\n",
)


@pytest.mark.parametrize("target", SHARED)
@pytest.mark.parametrize(
    "state",
    [b"}X\x04\x00\x00\x00evilK\x01s", b"N}X\x06\x00\x00\x00updateK\x01s\x86"],
    ids=["attributes", "slots"],
)
def test_nothing_shared_gets_an_attribute(target: str, state: bytes, tmp_path: Path) -> None:
    before = [vars(x).copy() for x in (torch._utils._rebuild_tensor_v2, Counter, OrderedDict)]
    hostile.archive(tmp_path / "x", hostile.build(target, state))
    refused(tmp_path / "x")
    with pytest.raises(pickle.UnpicklingError):
        loads_inert(hostile.build(target, state))
    again = [vars(x).copy() for x in (torch._utils._rebuild_tensor_v2, Counter, OrderedDict)]
    assert before == again
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


def test_a_fresh_state_dict_keeps_its_versions_and_no_other_attribute() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    again = loads_inert(pickle.dumps(OrderedDict(a=1)))
    assert type(again) is OrderedDict
    described = OrderedDict(a=1)
    described.__dict__ |= {"_metadata": state._metadata, "evil": 1}  # type: ignore[attr-defined]
    again = loads_inert(pickle.dumps(described))
    assert vars(again) == {"_metadata": state._metadata}  # type: ignore[attr-defined]
    again = loads_inert(b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.")
    assert list(again.items()) == []


@pytest.mark.parametrize("kind", ["module", "storage", "other"])
def test_what_a_persistent_id_may_not_be(kind: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("precious")
    pid = {
        "module": ("module", "name", str(tmp_path / "source"), "precious"),
        "storage": ("storage", "os.system", "0", "cpu", 1),
        "other": "text",
    }[kind]
    for legacy in (False, True):
        content = pickle.dumps(pid, 2)[:-1] + b"Q."
        if legacy:
            head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
            content = b"".join(pickle.dumps(part, 2) for part in head) + content
            (tmp_path / "x").write_bytes(content)
        else:
            hostile.archive(tmp_path / "x", content, {"0": b"\0\0\0\0"})
        refused(tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "x"]


@pytest.mark.parametrize(
    ("size", "stride", "count", "data"),
    [
        ((4,), (1,), 3, 12),  # beyond its storage
        ((2, 2), (3, 1), 4, 16),
        ((10**10,), (0,), 1, 4),  # 40 GB by a stride of nothing
        ((2**40, 2**40), (0, 0), 1, 4),
        ((-1,), (1,), 4, 16),
        ((2,), (-1,), 4, 16),
        ((2, 2), (1,), 4, 16),
        ((3,), (1,), 3, 8),  # the storage has less than it should
        ((3,), (1,), 3, 16),  # or more
        ((1,), (1,), 2**61, 4),
    ],
)
def test_a_tensor_lies_in_the_bytes_that_are_there(
    size: tuple[int, ...], stride: tuple[int, ...], count: int, data: int, tmp_path: Path
) -> None:
    content = hostile.tensor(size, stride, count)
    hostile.archive(tmp_path / "x", content, {"0": bytes(data)})
    refused(tmp_path / "x", "is not a readable checkpoint")


def test_expanded_tensors_of_a_sane_size_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0).expand(5, 3), "b": torch.empty(0, 4)}, tmp_path / "x")
    again = load_inert(tmp_path / "x")
    assert again["a"].equal(torch.arange(3.0).expand(5, 3))
    assert again["b"].shape == (0, 4)


def test_tensors_that_share_a_storage_still_do(tmp_path: Path) -> None:
    base = torch.randn(6)
    for legacy in (False, True):
        path = tmp_path / f"x{legacy}"
        torch.save([base, base[2:4]], path, _use_new_zipfile_serialization=not legacy)
        first, second = read_torch(path)
        first[2] = 7
        assert second[0] == 7


@pytest.mark.parametrize("dtype", [torch.uint16, torch.float8_e5m2, torch.bool, torch.complex64])
@pytest.mark.parametrize("keep", [False, True])
def test_unusual_types(dtype: torch.dtype, keep: bool, tmp_path: Path) -> None:
    values = torch.tensor([0, 1, 1, 0]).to(dtype).view(2, 2).T
    torch.save({"x": values}, tmp_path / "x")
    again = load_inert(tmp_path / "x", mmap=keep)["x"]
    assert (again.dtype, again.stride()) == (dtype, values.stride())
    assert again.T.view(torch.uint8).equal(values.T.view(torch.uint8))


@pytest.mark.parametrize("keep", [False, True])
def test_a_flipped_bit_is_seen(keep: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    torch.save({"w": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    place = whole.index(torch.arange(1000.0).numpy().tobytes())
    for at in (place, place + 2222):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(UserError, match="archive/data/0|x/data/0"):
            load_inert(path, mmap=keep)
    path.write_bytes(whole)
    assert load_inert(path, mmap=keep)["w"].equal(torch.arange(1000.0))


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    content = pickle.dumps({"a": bytes(10**6)}, 2)
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
    refused(path, "compressed")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", content)
    refused(path, "two members")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("other/data.pkl", content)
    refused(path, "not a torch checkpoint")
    hostile.archive(path, content)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")
    hostile.archive(path, content, {"byteorder": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    refused(path, "big-endian")


def test_members_that_share_bytes_are_no_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    hostile.archive(path, pickle.dumps({}, 2), {str(n): b"" for n in range(50)})
    data = bytearray(path.read_bytes())
    for at in [n for n in range(len(data)) if data[n : n + 4] == b"PK\1\2"]:
        struct.pack_into("<LL", data, at + 20, 5000, 5000)
    path.write_bytes(data)
    refused(path, "larger than the file")


def deep(kind: str, depth: int) -> bytes:
    """A pickle of tuples or lists within each other; or of a dict whose key they are."""
    inner = b"N" + {"tuple": b"\x85", "key": b"\x85", "list": b""}[kind] * depth
    if kind == "list":
        return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    return b"\x80\x02}" + inner + b"Ns." if kind == "key" else b"\x80\x02" + inner + b"."


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tuple", "list", "key"])
def test_depth_crashes_nothing(kind: str, tmp_path: Path) -> None:
    hostile.archive(tmp_path / "x", deep(kind, 10**6))
    with pytest.raises(UserError):
        load_inert(tmp_path / "x")
    with pytest.raises((UserError, pickle.UnpicklingError)):
        plain(loads_inert(deep(kind, 10**6)))


@pytest.mark.slow
def test_references_without_end_are_refused() -> None:
    doubled = b"\x80\x02]q\x00" + b"".join(
        b"(h" + bytes([n]) + b"h" + bytes([n]) + b"lq" + bytes([n + 1]) for n in range(60)
    )
    with pytest.raises(UserError, match="values"):
        plain(loads_inert(doubled + b"."))
    wide: Any = "x"
    for _ in range(3):
        wide = (wide,) * 200
    with pytest.raises(pickle.UnpicklingError, match="key"):
        loads_inert(pickle.dumps({wide: 1}))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cbuiltins\nlist\n(cbuiltins\nrange\n(J\x00\x00\x00\x7fRtR.",
        b"\x80\x02cbuiltins\nbytes\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x00\x00\x40abc.",
        b"\x80\x02("
        + b"N" * 10**5
        + b"lq\x00"
        + b"0cbuiltins\nlist\nh\x00\x85R" * 10**4
        + b"h\x00.",
    ],
    ids=["range", "bytes", "bytearray", "bytearray8", "copies"],
)
def test_nothing_is_allocated_that_the_file_does_not_hold(content: bytes, tmp_path: Path) -> None:
    hostile.archive(tmp_path / "x", content)
    refused(tmp_path / "x")


def test_containers_come_back(tmp_path: Path) -> None:
    content = {
        "counter": Counter("hello"),
        "queue": deque([1, 2], 3),
        "defaults": defaultdict(list, {"a": [1]}),
        "sets": ({1, 2}, frozenset({(3, "x")})),
        "bytes": (b"\x80abc", bytearray(b"xy")),
        "rest": (slice(1, 2), 3j, torch.Size([2]), torch.device("cpu", 0), torch.bfloat16),
    }
    for protocol in (2, 3, 4, 5):
        torch.save(content, tmp_path / "x", pickle_protocol=protocol)
        assert load_inert(tmp_path / "x") == content
        assert load_inert(tmp_path / "x")["defaults"]["b"] == []


def test_what_a_file_says_reaches_the_terminal_escaped(tmp_path: Path) -> None:
    name = "a\x1b[2Jb\n\u202ec"
    torch.save({name: 1}, tmp_path / "x")
    with pytest.raises(UserError) as caught:
        load_teacher(tmp_path / "x")
    assert str(caught.value).isprintable()
    with pytest.raises(UserError) as caught:
        load_teacher(tmp_path / f"{name}.pt")
    assert str(caught.value).isprintable()
    assert r"\x1b" in str(caught.value)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    refused(tmp_path / "x", "no such")
