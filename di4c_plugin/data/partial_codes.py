"""Codes of some of the pictures, so that an interrupted run loses none of them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from di4c_plugin.data.arrays import Array, read_arrays
from di4c_plugin.errors import UserError
from di4c_plugin.files import atomic_write

MADE_FROM = "made_from"  # the array with a digest of the settings and pictures
EVERY = 600  # seconds between writes


class Partial:
    """Codes of some of the pictures, in a file while others are missing.

    Args:
        file: .npz, with the keys of its pictures.
        settings: of the codes; a file with other settings is ignored.
        keys: of all pictures (M, 2).
    """

    def __init__(self, file: Path, settings: str, keys: Array) -> None:
        self.file, self.settings, self.keys = file, settings, keys
        self.known = np.zeros(len(keys), bool)
        self.codes: Array | None = None  # (M, h, w)
        self.saved = time.monotonic()

    @property
    def done(self) -> int:
        """The number of encoded pictures."""
        return int(self.known.sum())

    def left(self) -> list[int]:
        """Return the indices of the missing pictures."""
        return np.flatnonzero(~self.known).tolist()

    def add(self, indices: Sequence[int], codes: Array) -> None:
        """Add codes of more pictures; the file is written every `EVERY` seconds."""
        if self.codes is None:
            self.codes = np.zeros((len(self.keys), *codes.shape[1:]), codes.dtype)
        self.codes[indices], self.known[indices] = codes, True
        if time.monotonic() - self.saved > EVERY:
            self.write()

    def read(self) -> None:
        """Read the file's codes of these pictures; a damaged file, or one of others, is ignored."""
        try:
            arrays = read_arrays(self.file, "codes")
            if str(arrays[MADE_FROM]) != self.settings:
                return
            rows = {key.tobytes(): row for row, key in enumerate(arrays["keys"])}
            matches = [(i, rows.get(key.tobytes())) for i, key in enumerate(self.keys)]
            pairs = [(i, row) for i, row in matches if row is not None]
            if pairs:
                self.add([i for i, _ in pairs], arrays["codes"][[row for _, row in pairs]])
        except (UserError, LookupError, ValueError):
            return

    def write(self) -> None:
        """Write the file, if there is anything; raises UserError."""
        if self.codes is None:
            return
        arrays: dict[str, Any] = {MADE_FROM: np.array(self.settings)}
        arrays |= {"codes": self.codes[self.known], "keys": self.keys[self.known]}
        with atomic_write(self.file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **arrays)
        self.saved = time.monotonic()
