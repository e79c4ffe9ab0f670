"""Reads .npy and .npz files: arrays without objects, whose sizes are checked before allocation."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from di4c_plugin.errors import UserError, reason
from di4c_plugin.limits import exceeds, over, regular

Array = np.ndarray[Any, Any]
SUFFIX = ".npy"
# Greatest size of an archive's arrays, in sizes of the file, and spare bytes: deflate shrinks zeros
# to a thousandth.
INFLATED, SPARE = 20, 2**26
ENCRYPTED = 0x1
NUMBERS = "biufU"  # kinds of dtypes: numbers, and text
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
HEADER = 10**4  # bytes


def load_arrays(path: Path, name: str, what: str) -> dict[str, Array]:
    """Return the arrays of a file: {`name`: ...} of an .npy file, all of an .npz file.

    Args:
        path: the file.
        name: of the one array of an .npy file.
        what: the predicate of the message if the file cannot be read.

    Raises:
        UserError: if it is neither, is damaged, holds objects, or far more than its own size.
    """
    try:
        size = regular(path).stat().st_size
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _archive(file, size)
            file.seek(0)
            return {name: _array(file, size)}
    except Exception as error:  # of zipfile and its decompressors, any
        raise UserError(f"{path} is {what}: {reason(error)}") from error


def _archive(file: BinaryIO, size: int) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = {info.filename for info in infos}
        if len(names) != len(infos):
            raise ValueError("it has two arrays of one name")
        if any(info.flag_bits & ENCRYPTED for info in infos):
            raise ValueError("it is encrypted")
        if exceeds(sum(info.file_size for info in infos), INFLATED * size + SPARE):
            problem = f"its arrays would take more than {INFLATED} times its {size} bytes"
            raise ValueError(over(problem))
        arrays = {}
        for info in infos:
            with archive.open(info) as member:
                # Reads to the end, which checks the checksum, and not beyond the declared size.
                data = member.read()
            arrays[info.filename.removesuffix(SUFFIX)] = _array(io.BytesIO(data), len(data))
    return arrays


def _array(file: Any, size: int) -> Array:
    """Return the array in an .npy file of `size` bytes."""
    version = npy.read_magic(file)
    if version not in HEADERS:
        raise ValueError("it is no array of numbers")
    length = int.from_bytes(file.read(4)[: 2 if version == (1, 0) else 4], "little")
    file.seek(npy.MAGIC_LEN)
    if length > min(size, HEADER):
        raise ValueError("its header is too long")
    shape, fortran, dtype = HEADERS[version](file)
    if dtype.kind not in NUMBERS or not dtype.itemsize:
        raise ValueError(f"it holds no numbers but {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"an array of shape {shape} in {size} bytes")
    values = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
    return values.copy() if not values.flags.writeable else values
