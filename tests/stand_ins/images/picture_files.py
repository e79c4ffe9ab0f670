"""Small pictures written to folders."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_picture(path: Path, pixels: object) -> Path:
    """Write pixels, (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def ramp(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey values that tell rows and columns apart."""
    return (np.arange(height)[:, None] * 16 + np.arange(width)).astype(np.uint8)
