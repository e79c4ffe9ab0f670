"""Files of pictures: which they are by name, and reading one."""

from pathlib import Path

from PIL import Image

from di4c_plugin.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What Pillow may take a file for, whatever its name: among its other readers some start programs.
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
DEEP = ("F", "I")  # Pillow's modes of more than 8 bits; it would cut them off at 255


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is a picture, and none of macOS's shadows (._a.png)."""
    return name.lower().endswith(SUFFIXES) and not Path(name).name.startswith(".")


def open_picture(path: Path, channels: int) -> Image.Image:
    """Return a picture in grey (1 channel) or RGB (3).

    Raises:
        UserError: if it cannot be read, or has more than 8 bits for each value.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith(DEEP):
                raise UserError(f"{path} has more than 8 bits for each value")
            return image.convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a readable picture: {reason}") from error
