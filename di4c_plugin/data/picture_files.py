"""Files of pictures: which they are by name, and reading one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from di4c_plugin.errors import UserError, reason
from di4c_plugin.limits import exceeds, over

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
# What Pillow may take a file for, whatever its name: among its other readers some start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
PIXELS = 50 * 10**6  # of a picture, 200 MB; Pillow only warns up to 179 million
DEEP = ("F", "I")  # Pillow's modes of more than 8 bits; it would cut them off at 255
WIDTH, HEIGHT, TURNED = 256, 257, 274  # tags of TIFF
SHADOWS = ("@eaDir", "__MACOSX")  # folders in which systems keep copies of their own


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or a shadow of others, as macOS's ._a.png."""
    return name.startswith(".") or name in SHADOWS


def is_picture(name: str) -> bool:
    """Tell by its name whether a file is a picture."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(Path(name).name)


@contextmanager
def _our_limit() -> Iterator[None]:
    """Switch Pillow's own limit off, which is above ours, and warns of less."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def open_picture(path: Path, channels: int) -> Image.Image:
    """Return a picture in grey (1 channel) or RGB (3), upright, on white where it is transparent.

    Of several pictures in a file the first is taken.

    Raises:
        UserError: if it cannot be read, has more than 8 bits for each value, or too many pixels.
    """
    try:
        with _our_limit(), Image.open(path, formats=FORMATS) as image:
            if exceeds(image.width * image.height, PIXELS):
                raise UserError(over(f"{path} has more than {PIXELS // 10**6} million pixels"))
            if image.mode.startswith(DEEP):
                raise UserError(f"{path} has more than 8 bits for each value")
            check_turned(path, image)
            image.load()  # before its notes are read: TIFF is turned here
            return on_white(upright(image)).convert(MODES[channels])
    except UserError:
        raise
    except Exception as error:  # readers of damaged pictures raise anything
        raise UserError(f"{path} is not a readable picture: {reason(error)}") from error


def check_turned(path: Path, image: Any) -> None:
    """Refuse uncompressed TIFF that lies on its side, which Pillow mixes up; raises UserError."""
    tags = getattr(image, "tag_v2", {})
    raw = image.info.get("compression") == "raw"
    if raw and tags.get(TURNED, 1) >= 5 and tags.get(WIDTH) != tags.get(HEIGHT):
        raise UserError(f"{path} is an uncompressed TIFF that lies on its side: save it anew")


def upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its camera says (EXIF), if it says so legibly."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged note, of a picture that may be whole
        return image


def on_white(image: Image.Image) -> Image.Image:
    """Return a picture whose transparent parts show white, not what they hide."""
    clear = {"A", "a"} & {*image.getbands()} or "transparency" in image.info
    if not clear:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
