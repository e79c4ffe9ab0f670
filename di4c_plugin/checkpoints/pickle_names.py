"""Safe replacements for the names in a pickle: stubs, and a few functions of ours.

None of these functions runs, imports or allocates on behalf of a file.
"""

import collections
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import torch

from di4c_plugin.checkpoints import storages as tensors
from di4c_plugin.checkpoints.storages import StorageType
from di4c_plugin.checkpoints.stubs import Inert, Tame, encode, reconstruct, scalar

# Types that functions of Python copy.
COPIED = (str, bytes, bytearray, list, tuple, set, frozenset, dict, collections.deque)
KEY_PARTS = 1000  # of a tuple that is a key of a dict: hashing walks through all of them
# A file could choose numbers with equal hashes, which makes dicts quadratic. Text and integers
# below HASHES are safe; of other keys a dict holds at most CHOSEN.
HASHES, CHOSEN = 2**61 - 1, 200


def checked_key(key: Any) -> Any:
    """Return a key of a dict or a set.

    Hashing a tuple walks through all its parts, without a limit to depth.

    Raises:
        pickle.UnpicklingError: for a tuple that is too large.
    """
    waiting, count = [(key, 0)], 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if depth > 8 or count > KEY_PARTS:
            raise pickle.UnpicklingError("a key of a dict is too large")
        if isinstance(part, tuple):
            waiting += [(inner, depth + 1) for inner in part[:KEY_PARTS]]
    return key


def checked_keys(values: Iterable[Any]) -> list[Any]:
    """Return the keys of one dict or set, each checked."""
    keys = []
    for count, value in enumerate(values):
        check_chosen(value, count)
        keys.append(checked_key(value))
    return keys


def check_chosen(key: Any, count: int) -> None:
    """Refuse a key whose hash the file may have chosen, after `CHOSEN` others."""
    if count < CHOSEN or isinstance(key, str | bytes | Inert | type | None):
        return
    if isinstance(key, int) and abs(key) < HASHES:
        return
    if isinstance(key, tuple) and all(isinstance(part, str | bytes | None) for part in key):
        return
    raise pickle.UnpicklingError(f"more than {CHOSEN} keys of a dict are numbers and the like")


def is_stub_class(target: Any) -> bool:
    """Return whether an object is the stub of a class that was not imported."""
    return isinstance(target, type) and issubclass(target, Inert)


def name_of(target: Any) -> str:
    """Return an object's name for messages."""
    if isinstance(target, Tame | Inert) or is_stub_class(target):
        return target.path or "the result of a call"
    return f"an object of type {type(target).__name__}"


def _dict(*parts: Any) -> dict[Any, Any]:
    return dict(_pairs(*parts))


def _ordered(*parts: Any) -> collections.OrderedDict[Any, Any]:
    return collections.OrderedDict(_pairs(*parts))


def _defaults(factory: Any = None, *parts: Any) -> dict[Any, Any]:
    real = {"builtins.dict": dict, "builtins.list": list, "builtins.set": set}
    chosen = (
        real.get(factory.path.replace("__builtin__", "builtins"))
        if isinstance(factory, Tame)
        else None
    )
    return collections.defaultdict(chosen, _pairs(*parts))


def _counter(*parts: Any) -> collections.Counter[Any]:
    return collections.Counter(dict(_pairs(*parts)))


def _pairs(items: Any = ()) -> list[tuple[Any, Any]]:
    items = items.items() if isinstance(items, dict) else _copied(items)
    pairs = [(key, value) for key, value in items]
    keys = checked_keys(key for key, _ in pairs)
    return [(key, value) for key, (_, value) in zip(keys, pairs, strict=True)]


def _bytes(data: Any = b"", encoding: Any = None) -> bytes:
    if isinstance(data, str) and encoding in ("latin-1", "latin1"):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray | list):
        raise pickle.UnpicklingError("bytes of something else")
    return bytes(data)


def _copied(items: Any) -> Any:
    if not isinstance(items, COPIED):
        raise pickle.UnpicklingError(f"it lists {name_of(items)}")
    return items


def _set_of(items: Any = ()) -> set[Any]:
    return set(checked_keys(_copied(items)))


def _device(kind: Any, index: Any = None) -> Any:
    return torch.device(kind) if index is None else torch.device(kind, index)


def within_type(rebuild: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """Stand for a tensor within a tensor that carries attributes, see `_called`."""


def _known() -> dict[tuple[str, str], Any]:
    """Return the replacements of all globals that are more than a stub."""
    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("_codecs", "encode"): encode,
        ("collections", "Counter"): _counter,
        ("collections", "OrderedDict"): _ordered,
        ("collections", "defaultdict"): _defaults,
        ("collections", "deque"): lambda items=(), most=None: collections.deque(
            _copied(items), most
        ),
        ("copy_reg", "_reconstructor"): reconstruct,
        ("copyreg", "_reconstructor"): reconstruct,
        ("numpy._core.multiarray", "scalar"): scalar,
        ("numpy.core.multiarray", "scalar"): scalar,
        ("torch", "Size"): lambda sizes=(): torch.Size(tensors._whole_numbers(sizes)),
        ("torch", "device"): _device,
        ("torch._tensor", "_rebuild_from_type_v2"): within_type,
        ("torch._utils", "_rebuild_parameter"): tensors.rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): tensors.rebuild_parameter,
        ("torch._utils", "_rebuild_tensor"): tensors.rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensors.rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v3"): tensors.rebuild_tensor_v3,
    }
    for module in ("builtins", "__builtin__"):
        functions |= {
            (module, "bytearray"): lambda *data: bytearray(_bytes(*data)),
            (module, "bytes"): _bytes,
            (module, "complex"): complex,
            (module, "dict"): _dict,
            (module, "frozenset"): lambda items=(): frozenset(_set_of(items)),
            (module, "list"): lambda items=(): list(_copied(items)),
            (module, "set"): _set_of,
            (module, "slice"): slice,
            (module, "tuple"): lambda items=(): tuple(_copied(items)),
        }
    stand_ins: dict[tuple[str, str], Any] = {
        key: Tame(".".join(key), function) for key, function in functions.items()
    }
    stand_ins |= {
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
    }
    stand_ins |= {("torch", name): StorageType(name) for name in tensors.DTYPES}
    return stand_ins | {("torch.storage", "UntypedStorage"): StorageType("UntypedStorage")}


KNOWN = _known()
