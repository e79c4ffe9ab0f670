"""Files that try to do something when they are read; each function writes one."""

import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import torch
from torch import nn

DIRECTORY = struct.Struct("<4s4H2LH")  # the end of a zip file: mark, disks, entries, size, offset
ENTRY = 42  # where, in an entry of the directory, the offset of its member stands


class Writer(nn.Module):
    """A TorchScript module that writes a file of its choice when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), self.path)

    def forward(self) -> str:
        return self.path


def script(path: Path, written: Path) -> None:
    """A TorchScript archive; loading it writes `written`."""
    torch.jit.save(torch.jit.script(Writer(str(written))), path)


def two_directories(path: Path, written: Path) -> None:
    """An archive with two directories: by its recorded offset that of TorchScript, else weights."""
    script(path, written)
    program, plain = path.read_bytes(), path.with_suffix(".plain")
    torch.save({"state_dict": {"w": torch.ones(2)}}, plain)
    _, first_end = _split(program)
    members = _members(plain)
    plain.unlink()
    # The second directory gets as many entries and bytes as the first.
    _, _, _, _, entries, size, offset, _ = DIRECTORY.unpack(program[first_end : first_end + 22])
    body, rows = b"", []
    start = len(program[:first_end])
    for number in range(entries):
        name, data = members[number] if number < len(members) else (f"archive/x{number}", b"")
        rows.append((name, data, len(body)))
        body += _local(name, data) + data
    fixed = sum(46 + len(name.encode()) for name, _, _ in rows)
    padding = size - fixed
    assert padding >= 0, "the program's directory is the larger one"
    directory_at = start + len(body)
    shift = directory_at - offset  # what Python adds to each offset in this directory
    directory = b""
    for index, (name, data, at) in enumerate(rows):
        comment = b" " * padding if index == len(rows) - 1 else b""
        directory += _entry(name, data, start + at - shift, comment)
    end = DIRECTORY.pack(b"PK\5\6", 0, 0, entries, entries, size, offset, 0)
    path.write_bytes(program[:first_end] + body + directory + end)


def _split(archive: bytes) -> tuple[int, int]:
    """Return where the directory begins, and where its end does."""
    end = archive.rindex(b"PK\5\6")
    *_, offset, _ = DIRECTORY.unpack(archive[end : end + 22])
    return offset, end


def _members(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(f"archive/{n.partition('/')[2]}", archive.read(n)) for n in archive.namelist()]


def _header(name: str, data: bytes) -> bytes:
    size = len(data)
    return struct.pack("<4H3L2H", 0, 0, 0, 0, zlib.crc32(data), size, size, len(name), 0)


def _local(name: str, data: bytes) -> bytes:
    return b"PK\3\4" + struct.pack("<H", 10) + _header(name, data) + name.encode()


def _entry(name: str, data: bytes, offset: int, comment: bytes) -> bytes:
    head = b"PK\1\2" + struct.pack("<2H", 10, 10) + _header(name, data)
    return head + struct.pack("<3H2L", len(comment), 0, 0, 0, offset) + name.encode() + comment


def tar(path: Path, outside: Path) -> None:
    """A tar archive that begins with the byte of a pickle; it has a link out of it, and a pipe."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("first"))
        link, pipe = tarfile.TarInfo("tensors"), tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.LNKTYPE, str(outside)
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(link)
        archive.addfile(pipe)
    data = bytearray(path.read_bytes())
    data[0] = 0x80
    data[148:156] = b"        "
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    path.write_bytes(data)


def archive(path: Path, content: bytes, storages: dict[str, bytes] | None = None) -> None:
    """An archive of torch.save with this pickle in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        opened.writestr("archive/data.pkl", content)
        opened.writestr("archive/version", "3\n")
        for key, data in (storages or {}).items():
            opened.writestr(f"archive/data/{key}", data)


def build(target: str, state: bytes) -> bytes:
    """A pickle {"x": target with a state set by BUILD}; `target` is an opcode, such as a global."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + target.encode() + state + b"bs."


def number(value: int) -> bytes:
    """A whole number in a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    size: tuple[int, ...], stride: tuple[int, ...], count: int, kind: str = "Float"
) -> bytes:
    """A pickle {"w": a tensor of that shape in storage "0" that should hold `count` numbers}."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\n"
        + kind.encode()
        + b"Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count)
        + b"tQK\x00("
        + b"".join(map(number, size))
        + b"t("
        + b"".join(map(number, stride))
        + b"t\x89ccollections\nOrderedDict\n)RtRs."
    )
