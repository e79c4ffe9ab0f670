"""Stand-ins for the classes and functions that a pickle names: they record, and do nothing else.

`plain` turns the recorded OmegaConf containers back into dicts and lists.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from di4c_plugin.errors import UserError
from di4c_plugin.limits import exceeds, over

MOST = 10**6  # values that `plain` visits
_NUMBER = re.compile(r"[biufc?]\d*")


class Inert:
    """One object of a class that was not imported.

    Attributes:
        path: "module.Name" of the class, or of the function whose result it stands for.
        args: of its construction.
        state: the argument of `__setstate__`; None if it is not called.
        items: values appended or added to it, or set in it as (key, value).
    """

    path = ""
    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """Make a stub; keyword arguments are kept as a last positional one."""
        self = super().__new__(cls)
        self.args = (*args, kwargs) if kwargs else args
        self.state, self.items = None, []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to do."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> "Inert":
        """Stand for the result of a call."""
        return Inert(*args, **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        """Record an item of a list."""
        self.items.append(item)

    add = append

    def extend(self, items: Any) -> None:
        """Record items of a list."""
        self.items.extend(items)

    def __repr__(self) -> str:
        return f"<{self.path or 'result of a call'}>"

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute that the file recorded in `state`."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2:  # with __slots__
            state = (state[0] or {}) | (state[1] or {})
        return state.get(name, default) if isinstance(state, dict) else default


@dataclass(frozen=True, slots=True)
class Tame:
    """A safe function of ours, under the name of one that pickles call."""

    path: str
    call: Callable[..., Any]


@cache
def inert_class(module: str, name: str) -> type[Inert]:
    """Return the class of stubs for `module.name`."""
    return type(name.rpartition(".")[2], (Inert,), {"path": f"{module}.{name}"})


def plain(value: Any) -> Any:
    """Return `value` with OmegaConf's containers and nodes, enums and paths as plain values.

    Other objects become strings "<module.Name>"; interpolations stay as they were written; arrays
    of numbers are read.

    Raises:
        UserError: for endless nesting, and for more than `MOST` values, counting repeated
            references.
    """
    try:
        return _Plain()(value)
    except RecursionError as error:
        raise UserError("what the file says is nested too deeply") from error


class _Plain:
    """The function `plain`, with a count of visited values."""

    def __init__(self) -> None:
        self.left = MOST

    def __call__(self, value: Any) -> Any:
        self.left -= 1
        if exceeds(-self.left, 0):
            raise UserError(over(f"what the file says is more than {MOST} values"))
        if isinstance(value, dict):
            return {_key(self(key)): self(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self(item) for item in value]
        if isinstance(value, Inert):
            return self._stub(value)
        if isinstance(value, type | Tame):
            return f"<{getattr(value, 'path', '') or type(value).__name__}>"
        return value

    def _stub(self, stub: Inert) -> Any:
        for name in ("_content", "_val"):
            if isinstance(stub.state, dict) and name in stub.state:
                return self(stub.state[name])
        if stub.path.startswith("pathlib."):
            return "/".join(map(str, stub.args)).replace("//", "/")
        if stub.path.endswith(("multiarray._reconstruct", "numeric._frombuffer")):
            return array(stub)
        if len(stub.args) == 1 and isinstance(stub.args[0], int | str) and stub.state is None:
            return stub.args[0]  # an enum, a torch version
        return str(stub)


def _key(key: Any) -> Any:
    """Return the key of a dict: lists, which were tuples, become tuples again."""
    return tuple(map(_key, key)) if isinstance(key, list) else key


# ---- numpy: rebuilt here, since numpy's own __setstate__ would trust the file with pointers


def dtype_of(stub: Any) -> np.dtype[Any] | None:
    """Return the dtype that a stub of numpy.dtype describes, if it is one of plain numbers."""
    if not (isinstance(stub, Inert) and stub.path == "numpy.dtype" and stub.args):
        return None
    code = stub.args[0]
    if not (isinstance(code, str) and _NUMBER.fullmatch(code)):
        return None
    order = stub.state[1] if isinstance(stub.state, tuple) and len(stub.state) > 1 else "="
    return np.dtype(f"{order}{code}" if order in ("<", ">") else code)


def scalar(dtype: Any, data: Any = b"") -> Any:
    """Return the number numpy.core.multiarray.scalar(dtype, data) stands for, or a stub."""
    kind = dtype_of(dtype)
    if kind is None or not isinstance(data, bytes) or len(data) != kind.itemsize:
        return inert_class("numpy.core.multiarray", "scalar")(dtype, data)
    return np.frombuffer(data, kind)[0].astype(kind.newbyteorder("="))


def array(stub: Inert) -> Any:
    """Return the array of numbers that a stub records, or a string if it does not fit together."""
    try:
        if stub.path.endswith("_frombuffer"):  # pickle protocol 5
            data, dtype, shape, order = stub.args
        else:
            _, shape, dtype, fortran, data = stub.state
            order = "F" if fortran else "C"
        data = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
        kind = dtype_of(dtype)
        if kind is None or not isinstance(data, bytes | bytearray):
            return str(stub)
        return np.frombuffer(data, kind).reshape(shape, order=order).copy()
    except (TypeError, ValueError):
        return str(stub)


# ---- functions that pickles call and that are safe only when tamed


def encode(text: Any, encoding: Any = "latin1") -> Any:
    """Return bytes as Python 2 pickles spell them: _codecs.encode(text, "latin1")."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        return text.encode("latin1")
    return inert_class("_codecs", "encode")(text, encoding)


def reconstruct(kind: Any, *rest: Any) -> Any:
    """Return a stub of the class that copyreg._reconstructor(kind, base, state) would make."""
    if isinstance(kind, type) and issubclass(kind, Inert):
        return kind(*rest)
    return inert_class("copyreg", "_reconstructor")(kind, *rest)
