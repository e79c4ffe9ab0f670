"""An unpickler that runs nothing: every class and function that a file names is a stub.

Checkpoints of MDLM, SDTT and Duo hold an OmegaConf config and a tokenizer beside the weights, so
that torch's `weights_only` refuses them, and full unpickling imports classes that may be gone, or
hostile. Here a short list of names stands for functions of ours, all others become `Inert` stubs,
which only record what the file says. No attribute of anything but a stub is ever set.
"""

import collections
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

from di4c_plugin.checkpoints import storages as tensors
from di4c_plugin.checkpoints.storages import Storage, StorageType
from di4c_plugin.checkpoints.stubs import (
    Inert,
    Tame,
    encode,
    inert_class,
    plain,
    reconstruct,
    scalar,
)
from di4c_plugin.errors import UserError

# Given the type, key and number of elements of a storage, and where in it a view lies (or None).
FindStorage = Callable[[StorageType, str, int, Any], Storage]
# What a function of Python copies; in all, so many elements for each byte of the file, and some.
COPIED = (str, bytes, bytearray, list, tuple, set, frozenset, dict, collections.deque)
COPIES_FOR_A_BYTE, COPIES = 4, 10**6
KEY_PARTS = 1000  # of a tuple that is a key of a dict: hashing walks through all of them
# Numbers can be chosen to have one hash, and looking each up takes as long as there are others. So
# can not text, and whole numbers below this; of others a dict holds no more than so many.
HASHES, CHOSEN = 2**61 - 1, 200


class InertUnpickler(pickle._Unpickler):
    """An unpickler to which every global outside a short list is a class of inert stubs.

    Python's own implementation of the format, with those operations replaced that call or change
    an object.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    memo: dict[int, Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: BinaryIO, *, storages: FindStorage | None = None, encoding: str = "ASCII"
    ) -> None:
        super().__init__(file, encoding=encoding)
        self.storages = storages
        start = file.tell()
        self.copies = COPIES + COPIES_FOR_A_BYTE * file.seek(0, io.SEEK_END)
        file.seek(start)

    def find_class(self, module: str, name: str) -> Any:
        """Return what the file's global stands for; nothing is imported."""
        key = (str(module), str(name))
        return KNOWN[key] if key in KNOWN else inert_class(*key)

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that torch put beside the pickle.

        Raises:
            pickle.UnpicklingError: for anything else, such as torch's persistent modules.
        """
        if self.storages is None or not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise pickle.UnpicklingError("it refers to something outside itself")
        what, kind, key, _, count, *view = pid
        if what != "storage" or not isinstance(kind, StorageType) or type(count) is not int:
            raise pickle.UnpicklingError("it refers to something outside itself")
        if not isinstance(key, str) or count < 0:
            raise pickle.UnpicklingError("a storage without a name or a size")
        return self.storages(kind, key, count, view[0] if view else None)

    # ---- the operations of the format that call an object

    def _called(self, target: Any, arguments: Any) -> Any:
        """Return what a call stands for.

        Raises:
            pickle.UnpicklingError: for what is no function here, and for copies without end.
        """
        if isinstance(target, Inert) or _is_class(target):
            return target(*arguments)
        if not isinstance(target, Tame):
            raise pickle.UnpicklingError(f"it calls {_name(target)}")
        if target.call is _from_type:
            return self._called(arguments[0], arguments[2])
        self.copies -= sum(len(part) for part in arguments if isinstance(part, COPIED))
        if self.copies < 0:
            raise pickle.UnpicklingError("it copies its content again and again")
        return target.call(*arguments)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def _newobj(self) -> None:
        self._reduce()

    def _newobj_ex(self) -> None:
        keywords = self.stack.pop()
        arguments = self.stack.pop()
        stub = self.stack[-1]
        if not _is_class(stub):
            raise pickle.UnpicklingError("it makes an object of no class")
        self.stack[-1] = stub(*arguments, **keywords)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._called(klass, tuple(args)))

    def get_extension(self, code: int) -> None:
        """Refuse the numbers that a program may give its classes."""
        raise pickle.UnpicklingError("it names classes by numbers of this machine")

    # ---- those that change one

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif type(target) is collections.OrderedDict:
            # A module's state_dict: its versions are the one attribute that is kept.
            if isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise pickle.UnpicklingError(f"it sets attributes of {_name(target)}")

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | collections.deque | Inert):
            raise pickle.UnpicklingError(f"it appends to {_name(target)}")
        target.extend(values)

    def _setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._put([key, value])

    def _setitems(self) -> None:
        self._put(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | Inert):
            raise pickle.UnpicklingError(f"it sets items of {_name(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, dict):
                _check_chosen(key, len(target))
            target[_key(key)] = value

    def _additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, set | Inert):
            raise pickle.UnpicklingError(f"it adds to {_name(target)}")
        for value in values:
            if isinstance(target, set):
                _check_chosen(value, len(target))
            target.add(_key(value))

    def _frozenset(self) -> None:
        values = self.pop_mark()  # first: it changes what `append` is
        self.append(frozenset(_keys(values)))

    def _memoize(self) -> None:
        number = int(self.readline())
        if not 0 <= number < 2**32:
            raise pickle.UnpicklingError("it counts its values beyond its end")
        self.memo[number] = self.stack[-1]

    def _bytearray8(self) -> None:
        # Python's own makes room for as many bytes as the file claims to hold.
        count = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(count)))


InertUnpickler.dispatch |= {
    pickle.APPEND[0]: InertUnpickler._append,
    pickle.APPENDS[0]: InertUnpickler._appends,
    pickle.ADDITEMS[0]: InertUnpickler._additems,
    pickle.BUILD[0]: InertUnpickler._build,
    pickle.BYTEARRAY8[0]: InertUnpickler._bytearray8,
    pickle.DICT[0]: InertUnpickler._dict,
    pickle.FROZENSET[0]: InertUnpickler._frozenset,
    pickle.PUT[0]: InertUnpickler._memoize,
    pickle.NEWOBJ[0]: InertUnpickler._newobj,
    pickle.NEWOBJ_EX[0]: InertUnpickler._newobj_ex,
    pickle.REDUCE[0]: InertUnpickler._reduce,
    pickle.SETITEM[0]: InertUnpickler._setitem,
    pickle.SETITEMS[0]: InertUnpickler._setitems,
}


def _key(key: Any) -> Any:
    """Return a key of a dict or a set.

    Hashing a tuple walks through all that it holds, without a limit to depth.

    Raises:
        pickle.UnpicklingError: for what cannot be one, or is too large a tuple.
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


def _keys(values: Iterable[Any]) -> list[Any]:
    """Return values that become the keys of one dict or set, each checked."""
    found = []
    for count, value in enumerate(values):
        _check_chosen(value, count)
        found.append(_key(value))
    return found


def _check_chosen(key: Any, count: int) -> None:
    """Refuse one more key whose hash the file may have chosen, beside so many; see `CHOSEN`."""
    if count < CHOSEN or isinstance(key, str | bytes | Inert | type | None):
        return
    if isinstance(key, int) and abs(key) < HASHES:
        return
    if isinstance(key, tuple) and all(isinstance(part, str | bytes | None) for part in key):
        return
    raise pickle.UnpicklingError(f"more than {CHOSEN} keys of a dict are numbers and the like")


def _is_class(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, Inert)


def _name(target: Any) -> str:
    if isinstance(target, Tame | Inert) or _is_class(target):
        return target.path or "the result of a call"
    return f"an object of type {type(target).__name__}"


# ---- functions that pickles call, tamed: none of them runs, imports or allocates what a file says


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
    keys = _keys(key for key, _ in pairs)
    return [(key, value) for key, (_, value) in zip(keys, pairs, strict=True)]


def _bytes(data: Any = b"", encoding: Any = None) -> bytes:
    if isinstance(data, str) and encoding in ("latin-1", "latin1"):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray | list):
        raise pickle.UnpicklingError("bytes of something else")
    return bytes(data)


def _copied(items: Any) -> Any:
    if not isinstance(items, COPIED):
        raise pickle.UnpicklingError(f"it lists {_name(items)}")
    return items


def _set_of(items: Any = ()) -> set[Any]:
    return set(_keys(_copied(items)))


def _device(kind: Any, index: Any = None) -> Any:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _from_type(rebuild: Any, kind: Any, args: Any, state: Any = None) -> Any:
    """Stand for a tensor within a tensor that carries attributes, see `_called`."""


def _known() -> dict[tuple[str, str], Any]:
    """Return what stands for each of the globals that are more than a stub here."""
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
        ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
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
    found: dict[tuple[str, str], Any] = {
        key: Tame(".".join(key), function) for key, function in functions.items()
    }
    found |= {
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
    }
    found |= {("torch", name): StorageType(name) for name in tensors.DTYPES}
    return found | {("torch.storage", "UntypedStorage"): StorageType("UntypedStorage")}


KNOWN = _known()


def read_plain(path: str | Path) -> Any:
    """Return what a pickle (not one of `torch.save`) holds: plain values and arrays of numbers.

    Strings of Python 2 are read as latin-1, which loses nothing; the rest is as `stubs.plain` says.

    Raises:
        UserError: if the file cannot be read or is no pickle.
    """
    path = Path(path)
    try:
        data = io.BytesIO(path.read_bytes())
        return plain(InertUnpickler(data, encoding="latin1").load())
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} is not a readable pickle: {reason}") from error


def loads_inert(data: bytes) -> Any:
    """Return what a plain pickle holds, foreign objects as stubs."""
    return InertUnpickler(io.BytesIO(data)).load()
