"""Files of `torch.save`, read as data: `load_inert`.

`torch.load` picks one of four readers by the file's content, and two of them run its code
(TorchScript) or trust its paths (tar). Here there are two, both our own: zip archives, by Python's
`zipfile` alone, and the format before torch 1.6, a sequence of pickles. All else is refused.
"""

import io
import mmap
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from di4c_plugin.checkpoints.pickles import InertUnpickler
from di4c_plugin.checkpoints.storages import Storage, StorageType, storage_of
from di4c_plugin.checkpoints.stubs import Inert
from di4c_plugin.errors import UserError, reason

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # what a file of the older form begins with
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip archive: mark, lengths of the names
ENCRYPTED = 0x1


def load_inert(path: str | Path, *, mmap: bool = False, device: Any = "cpu") -> dict[str, Any]:
    """Return the dict in a file of `torch.save`, foreign objects as `Inert` stubs.

    Args:
        path: a file of the current (zip) or the older form.
        mmap: leave the tensors of a zip file in it until they are read, copied where written to;
            only while nobody rewrites the file.
        device: where the tensors should be.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint with a dict.
    """
    content = read_torch(path, mmap=mmap, device=device)
    if not isinstance(content, dict):
        kind = content.path if isinstance(content, Inert) else type(content).__name__
        raise UserError(f"{path} is not a checkpoint: it holds no dict but {kind}")
    return content


def read_torch(path: str | Path, *, mmap: bool = False, device: Any = "cpu") -> Any:
    """Return the content of a file of `torch.save`; arguments and errors as for `load_inert`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _Archive(file, mmap, device).load()
            file.seek(0)
            return _Row(file, device).load()
    except _NotOfTorch as error:
        raise UserError(f"{path} is not a torch checkpoint{error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is not a readable checkpoint: {reason(error)}") from error


class _NotOfTorch(Exception):
    """The file is something else; the message goes behind "is not a torch checkpoint"."""


class _Archive:
    """The zip form: `<name>/data.pkl`, and a member `<name>/data/<key>` for each storage."""

    def __init__(self, file: BinaryIO, keep: bool, device: Any) -> None:
        self.file, self.keep, self.device = file, keep, device
        self.size = file.seek(0, io.SEEK_END)
        self.members = _members(file, self.size)
        pickles = [name for name in self.members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].count("/") != 1:
            raise _NotOfTorch("")
        self.folder = pickles[0].removesuffix("data.pkl")
        if f"{self.folder}constants.pkl" in self.members:
            raise _NotOfTorch(" but a TorchScript program")
        self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.storages: dict[tuple[str, torch.dtype], Storage] = {}

    def load(self) -> Any:
        order = f"{self.folder}byteorder"
        if order in self.members and bytes(self._bytes(order)) != b"little":
            raise pickle.UnpicklingError("it was written by a big-endian machine")
        data = io.BytesIO(self._bytes(f"{self.folder}data.pkl"))
        return InertUnpickler(data, storages=self._storage).load()

    def _storage(self, kind: StorageType, key: str, count: int, view: Any) -> Storage:
        if view is not None:
            raise pickle.UnpicklingError("a storage within a storage")
        if (key, kind.dtype) not in self.storages:
            data: memoryview | bytearray = self._bytes(f"{self.folder}data/{key}")
            if len(data) != count * kind.dtype.itemsize:
                raise pickle.UnpicklingError(
                    f"storage {key} should hold {count} numbers of {kind.dtype}, "
                    f"and has {len(data)} bytes"
                )
            data = data if self.keep else bytearray(data)
            self.storages[key, kind.dtype] = storage_of(data, kind.dtype, self.device)
        return self.storages[key, kind.dtype]

    def _bytes(self, name: str) -> memoryview:
        """Return the bytes of a member; raises UnpicklingError if it is missing or damaged."""
        if name not in self.members:
            raise pickle.UnpicklingError(f"the archive has no {name}")
        member = self.members[name]
        mark, *lengths = LOCAL_HEADER.unpack_from(self.map, member.header_offset)
        start = member.header_offset + 30 + sum(lengths)
        data = memoryview(self.map)[start : start + member.file_size]
        if mark != b"PK\3\4" or len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise pickle.UnpicklingError(f"{name} is damaged: its checksum is another")
        return data


def _members(file: BinaryIO, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by name, which must have the form of `torch.save`."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise pickle.UnpicklingError("the archive has two members of one name")
    for name, info in members.items():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise pickle.UnpicklingError(f"{name} is compressed; torch.save compresses nothing")
        if info.flag_bits & ENCRYPTED:
            raise pickle.UnpicklingError(f"{name} is encrypted")
    if sum(info.file_size for info in infos) > size:
        raise pickle.UnpicklingError("its members are larger than the file")
    return members


class _Row:
    """The older form: pickles of magic number, version, machine and content; keys; the storages."""

    def __init__(self, file: BinaryIO, device: Any) -> None:
        self.file, self.device = file, device
        self.left = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.roots: dict[str, Storage] = {}

    def load(self) -> Any:
        if self.file.read(1) != pickle.PROTO:
            raise _NotOfTorch("")
        self.file.seek(0)
        if self._next() != MAGIC or self._next() != VERSION:
            raise _NotOfTorch("")
        machine = self._next()
        if not isinstance(machine, Mapping) or machine.get("little_endian") is not True:
            raise pickle.UnpicklingError("it was written by a big-endian machine")
        content, keys = self._next(), self._next()
        if not isinstance(keys, list) or set(keys) != self.roots.keys():
            raise pickle.UnpicklingError("its list of storages is another than its tensors'")
        for key in keys:
            self._fill(self.roots[key].flat, key)
        return content

    def _next(self) -> Any:
        return InertUnpickler(self.file, storages=self._storage).load()

    def _storage(self, kind: StorageType, key: str, count: int, view: Any) -> Storage:
        if key not in self.roots:
            self.left -= count * kind.dtype.itemsize
            if self.left < 0:
                raise pickle.UnpicklingError("its tensors are larger than the file")
            self.roots[key] = Storage(torch.zeros(count, dtype=kind.dtype, device=self.device))
        root = self.roots[key]
        if len(root.flat) != count or root.flat.dtype != kind.dtype:
            raise pickle.UnpicklingError(f"storage {key} has two sizes")
        if view is None:
            return root
        _, start, length = view
        if not 0 <= start <= start + length <= count:
            raise pickle.UnpicklingError(f"storage {key} has less than a tensor wants")
        return Storage(root.flat[start : start + length])

    def _fill(self, flat: torch.Tensor, key: str) -> None:
        """Read a storage, 8 bytes of its length before it, into the tensor that waits for it."""
        count = int.from_bytes(self.file.read(8), "little")
        data = bytearray(self.file.read(flat.nbytes))
        if count != len(flat) or len(data) != flat.nbytes:
            raise pickle.UnpicklingError(f"storage {key} is cut off or of another length")
        flat.copy_(storage_of(data, flat.dtype).flat)
