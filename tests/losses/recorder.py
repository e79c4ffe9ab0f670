"""Watches the memory of what torch makes."""

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Sizes of what is made, in bytes: the largest storage, and the most that lived at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = self.living = self.peak = 0
        self.shapes: set[tuple[int, ...]] = set()
        self.storages: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.see(value)
        return out

    def see(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        self.shapes.add(tuple(value.shape))
        if storage._cdata in self.storages:
            return
        size = self.storages[storage._cdata] = storage.nbytes()
        self.living += size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self.living)
        weakref.finalize(storage, self.forget, storage._cdata)

    def forget(self, key: int) -> None:
        self.living -= self.storages.pop(key)
