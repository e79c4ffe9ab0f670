"""An unpickler that runs nothing: every class and function that a file names is a stub.

Checkpoints of MDLM, SDTT and Duo hold an OmegaConf config and a tokenizer beside the weights, so
torch's `weights_only` refuses them, and full unpickling imports classes that may be missing or
hostile. Here a short list of names is mapped to functions of ours; all others become `Inert` stubs,
which only record the file's values. Attributes are set on stubs only.
"""

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from di4c_plugin.checkpoints.pickle_names import (
    COPIED,
    KNOWN,
    check_chosen,
    checked_key,
    checked_keys,
    is_stub_class,
    name_of,
    within_type,
)
from di4c_plugin.checkpoints.storages import Storage, StorageType
from di4c_plugin.checkpoints.stubs import Inert, Tame, inert_class, plain
from di4c_plugin.errors import UserError, reason
from di4c_plugin.limits import exceeds, over

# Given the type, key and number of elements of a storage, and where in it a view lies (or None).
FindStorage = Callable[[StorageType, str, int, Any], Storage]
# Copies by functions: so many elements for each byte of the file, and some.
COPIES_FOR_A_BYTE, COPIES = 4, 10**6


class InertUnpickler(pickle._Unpickler):
    """An unpickler to which every global outside a short list is a class of inert stubs.

    Python's own implementation of the format, with the operations that call or change an object
    replaced.
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
        """Return the replacement of the file's global; nothing is imported."""
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
        """Return the result of a call, or a stub for it.

        Raises:
            pickle.UnpicklingError: for anything that is not callable here, and for too many copies.
        """
        if isinstance(target, Inert) or is_stub_class(target):
            return target(*arguments)
        if not isinstance(target, Tame):
            raise pickle.UnpicklingError(f"it calls {name_of(target)}")
        if target.call is within_type:
            return self._called(arguments[0], arguments[2])
        self.copies -= sum(len(part) for part in arguments if isinstance(part, COPIED))
        if exceeds(-self.copies, 0):
            raise pickle.UnpicklingError(over("it copies its content again and again"))
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
        if not is_stub_class(stub):
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
            raise pickle.UnpicklingError(f"it sets attributes of {name_of(target)}")

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | collections.deque | Inert):
            raise pickle.UnpicklingError(f"it appends to {name_of(target)}")
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
            raise pickle.UnpicklingError(f"it sets items of {name_of(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, dict):
                check_chosen(key, len(target))
            target[checked_key(key)] = value

    def _additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if not isinstance(target, set | Inert):
            raise pickle.UnpicklingError(f"it adds to {name_of(target)}")
        for value in values:
            if isinstance(target, set):
                check_chosen(value, len(target))
            target.add(checked_key(value))

    def _frozenset(self) -> None:
        values = self.pop_mark()  # first: it changes what `append` is
        self.append(frozenset(checked_keys(values)))

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


def read_plain(path: str | Path) -> Any:
    """Return the plain values and arrays of numbers in a pickle (not one of `torch.save`).

    Strings of Python 2 are read as latin-1, which loses nothing; the rest is as `stubs.plain` says.

    Raises:
        UserError: if the file cannot be read or is no pickle.
    """
    path = Path(path)
    try:
        data = io.BytesIO(path.read_bytes())
        return plain(InertUnpickler(data, encoding="latin1").load())
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(f"{path} is not a readable pickle: {reason(error)}") from error
