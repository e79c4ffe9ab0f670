"""The tensors of a torch checkpoint: storages of declared sizes, and views into them.

A pickle describes each tensor as a view of a storage. This is compared with the bytes in the file,
so that no tensor reaches beyond its storage (torch would enlarge it with uninitialised memory) and
none is much larger than the file.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from di4c_plugin.errors import UserError
from di4c_plugin.limits import exceeds, over

# Storage types, as a pickle names them, and the type of their elements. Untyped ones hold bytes.
DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
# An expanded tensor (stride 0) may be larger than its storage, up to this many bytes.
EXPANDED = 2**26
COPIES = 4  # greatest size of all tensors, in sizes of the file


@dataclass(frozen=True)
class StorageType:
    """The replacement of `torch.FloatStorage` and the like in a pickle."""

    name: str

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return DTYPES[self.name]


@dataclass(frozen=True)
class Storage:
    """The numbers of a storage, a flat tensor."""

    flat: Tensor


def storage_of(data: Any, dtype: torch.dtype, device: Any = "cpu") -> Storage:
    """Return the storage with these bytes, which it shares on the CPU.

    Args:
        data: a writable buffer.
        dtype: of the elements.
        device: where the tensors should be.
    """
    if not len(data):
        return Storage(torch.empty(0, dtype=dtype, device=device))
    return Storage(torch.frombuffer(data, dtype=dtype).to(device))


def rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Return a tensor within a storage; the arguments are those of `torch._utils`.

    Args:
        storage: of its elements.
        offset: of its first element.
        size: its shape.
        stride: elements from one index to the next, for each dimension.
        requires_grad: as it was when it was saved.
        hooks: left out.
        metadata: left out.

    Raises:
        pickle.UnpicklingError: if it does not lie within the storage, or is far larger than it.
    """
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    shape, steps = _whole_numbers(size), _whole_numbers(stride)
    (start,) = _whole_numbers([offset])
    if len(shape) != len(steps):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} with strides {steps}")
    flat, count = storage.flat, math.prod(shape)
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if count and last >= len(flat):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} reaches beyond the {len(flat)} numbers of its storage"
        )
    if exceeds(count * flat.itemsize, max(flat.nbytes, EXPANDED)):
        raise pickle.UnpicklingError(
            over(f"a tensor of shape {shape} in a storage of {len(flat)} numbers")
        )
    tensor = flat.as_strided(shape, steps, start) if count else flat.new_empty(shape)
    return tensor.requires_grad_(bool(requires_grad) and tensor.is_floating_point())


def rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    """Return a tensor of `dtype` within an untyped storage; see `rebuild_tensor`."""
    if not (isinstance(storage, Storage) and isinstance(dtype, torch.dtype)):
        raise pickle.UnpicklingError("a tensor without a storage or a type")
    if storage.flat.nbytes % dtype.itemsize:
        raise pickle.UnpicklingError(f"{storage.flat.nbytes} bytes are no numbers of {dtype}")
    typed = Storage(storage.flat.view(dtype))
    return rebuild_tensor(typed, offset, size, stride, requires_grad)


def rebuild_parameter(data: Any, requires_grad: Any, *rest: Any) -> Tensor:
    """Return a parameter without hooks and attributes."""
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return nn.Parameter(data.detach(), bool(requires_grad) and data.is_floating_point())


def check_total(tensors: Mapping[str, Tensor], size: int, origin: str) -> None:
    """Refuse tensors that are far larger than their file, since they will be copied.

    Args:
        tensors: by name; one may have several names, and several may share a storage.
        size: of the file, in bytes.
        origin: for the message.

    Raises:
        UserError: if they are.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    if exceeds(total, COPIES * size + EXPANDED):
        raise UserError(over(f"{origin} holds {size} bytes, and its tensors would take {total}"))


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or len(values) > 64:
        raise pickle.UnpicklingError("a tensor without a shape")
    if not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise pickle.UnpicklingError(f"a tensor of shape {tuple(values)!r:.80}")
    return tuple(values)
