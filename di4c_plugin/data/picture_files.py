"""Files of pictures: which they are by name, and reading one."""

from pathlib import Path

from PIL import Image

from di4c_plugin.errors import UserError, reason

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What Pillow may take a file for, whatever its name: among its other readers some start programs.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
PIXELS = 50 * 10**6  # of a picture, 200 MB; Pillow only warns up to 179 million
DEEP = ("F", "I")  # Pillow's modes of more than 8 bits; it would cut them off at 255


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is a picture, and none of macOS's shadows (._a.png)."""
    return name.lower().endswith(SUFFIXES) and not Path(name).name.startswith(".")


def open_picture(path: Path, channels: int) -> Image.Image:
    """Return a picture in grey (1 channel) or RGB (3).

    Raises:
        UserError: if it cannot be read, has more than 8 bits for each value, or too many pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise UserError(f"{path} has more than {PIXELS // 10**6} million pixels")
            if image.mode.startswith(DEEP):
                raise UserError(f"{path} has more than 8 bits for each value")
            return image.convert(MODES[channels])
    except UserError:
        raise
    except Exception as error:  # readers of damaged pictures raise anything
        raise UserError(f"{path} is not a readable picture: {reason(error)}") from error
