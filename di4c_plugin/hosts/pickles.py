"""Reads torch checkpoints and pickles of other programs without running a line that the file names.

Lightning files of MDLM, SDTT and Duo hold an OmegaConf config and a tokenizer beside the weights,
so that `weights_only` refuses them; and full unpickling imports classes that may be gone, or
hostile. Here every class but a short list of tensor parts becomes an inert stub that only records
what the file says. Tests: tests/hosts/test_pickles.py.
"""

import io
import pickle
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from di4c_plugin.errors import UserError
from di4c_plugin.hosts.stubs import REPLACED, Inert, inert_class, plain

# What weights, optimisers and Lightning's loops are made of. Nothing here runs code of the file:
# no eval, getattr or import, no torch.storage._load_from_bytes (it unpickles without any care).
_TORCH = ("Size", "device")
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset"),
    *("int", "list", "range", "set", "slice", "str", "tuple"),
)
_COLLECTIONS = ("OrderedDict", "Counter", "defaultdict", "deque")


def _allowed() -> dict[tuple[str, str], Any]:
    """Return every global that is looked up for real, and our replacements of some."""
    import builtins
    import collections

    found: dict[tuple[str, str], Any] = {("torch", name): getattr(torch, name) for name in _TORCH}
    found |= {("torch._utils", name): getattr(torch._utils, name) for name in _REBUILD}
    found |= {("collections", name): getattr(collections, name) for name in _COLLECTIONS}
    for module in ("builtins", "__builtin__"):
        found |= {(module, name): getattr(builtins, name) for name in _BUILTINS}
    found |= {
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype) or name.endswith("Storage")
    }
    found["torch.storage", "UntypedStorage"] = torch.UntypedStorage
    return found | REPLACED


class InertUnpickler(pickle.Unpickler):
    """An unpickler to which every global outside the list is a class of inert stubs."""

    allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        """Return what the file's global stands for; nothing is imported."""
        key = (str(module), str(name))
        return self.allowed[key] if key in self.allowed else inert_class(*key)


def _load(file: BinaryIO, **options: Any) -> Any:
    return InertUnpickler(file, **options).load()


def _pickle_module() -> types.ModuleType:
    """Return what `torch.load` takes in the place of the module `pickle`."""
    module = types.ModuleType("di4c_inert_pickle")
    module.Unpickler = InertUnpickler  # type: ignore[attr-defined]
    module.load = _load  # type: ignore[attr-defined]
    return module


def load_inert(
    path: str | Path, *, mmap: bool = False, map_location: Any = "cpu"
) -> dict[str, Any]:
    """Return the dict in a `torch.save` file, foreign objects as `Inert` stubs.

    Args:
        path: a file of current (zip) or older form.
        mmap: leave tensors in the file until they are read; only while nobody rewrites it.
        map_location: as for `torch.load`; by default everything comes to the CPU.

    Raises:
        UserError: if there is no such file, or it is not a torch checkpoint holding a dict.
    """
    path = Path(path)
    _check_kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(
                path,
                map_location=map_location,
                weights_only=False,
                pickle_module=_pickle_module(),
                mmap=mmap and zipfile.is_zipfile(path),
            )
    except UserError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} is not a readable checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds no dict but {_kind(content)}")
    return content


def _kind(content: Any) -> str:
    return content.path if isinstance(content, Inert) else type(content).__name__


def _check_kind(path: Path) -> None:
    """Refuse what torch.load would hand to other readers: TorchScript, tar archives, folders.

    Raises:
        UserError: as for `load_inert`.
    """
    if not path.is_file():
        raise UserError(f"no such checkpoint: {path}")
    try:
        with path.open("rb") as file:
            head = file.read(2)
        if not zipfile.is_zipfile(path):
            known = head[:1] == b"\x80"
        else:
            with zipfile.ZipFile(path) as archive:
                names = [name.partition("/")[2] for name in archive.namelist()]
            known = "data.pkl" in names and "constants.pkl" not in names
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from error
    if not known:
        raise UserError(f"{path} is not a torch checkpoint")


def read_plain(path: str | Path) -> Any:
    """Return what a pickle (not one of `torch.save`) holds: plain values and arrays of numbers.

    Strings of Python 2 are read as latin-1, which loses nothing; the rest is as `stubs.plain` says.

    Raises:
        UserError: if the file cannot be read or is no pickle.
    """
    path = Path(path)
    try:
        return plain(_load(io.BytesIO(path.read_bytes()), encoding="latin1"))
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} is not a readable pickle: {reason}") from error


def loads_inert(data: bytes) -> Any:
    """Return what a plain pickle holds, foreign objects as stubs; for tests and small files."""
    return _load(io.BytesIO(data))


__all__ = ["Inert", "InertUnpickler", "load_inert", "loads_inert", "read_plain"]
