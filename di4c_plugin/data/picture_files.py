"""Files of pictures: recognised by name, and read safely."""

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
# Formats that Pillow may read, whatever the name: some of its other readers start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MODES = {1: "L", 3: "RGB"}
PIXELS = 50 * 10**6  # of a picture, 200 MB; Pillow only warns up to 179 million
DEEP = ("F", "I")  # Pillow's modes of more than 8 bits, which it would clip at 255
WIDTH, HEIGHT, TURNED = 256, 257, 274  # tags of TIFF
SHADOWS = ("@eaDir", "__MACOSX")  # folders of copies that systems create


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or a system's copy, such as macOS's ._a.png."""
    return name.startswith(".") or name in SHADOWS


def is_picture(name: str) -> bool:
    """Return whether a file is a picture by its name."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(Path(name).name)


@contextmanager
def _our_limit() -> Iterator[None]:
    """Switch off Pillow's own limit, which is above ours, and its warnings."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_picture(path: Path, channels: int) -> Image.Image:
    """Return a picture in grey (1 channel) or RGB (3), upright, on white where it is transparent.

    If a file holds several pictures, this is the first.

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
    """Refuse an uncompressed, rotated TIFF, which Pillow garbles; raises UserError."""
    tags = getattr(image, "tag_v2", {})
    raw = image.info.get("compression") == "raw"
    if raw and tags.get(TURNED, 1) >= 5 and tags.get(WIDTH) != tags.get(HEIGHT):
        raise UserError(f"{path} is an uncompressed TIFF that lies on its side: save it anew")


def upright(image: Image.Image) -> Image.Image:
    """Return a picture rotated by its EXIF orientation, if that is readable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF, of a picture that may be intact
        return image


def on_white(image: Image.Image) -> Image.Image:
    """Return a picture with white in its transparent parts, not their hidden colours."""
    clear = {"A", "a"} & {*image.getbands()} or "transparency" in image.info
    if not clear:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
