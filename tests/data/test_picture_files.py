import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from di4c_plugin.data.picture_files import SUFFIXES, is_picture, open_picture
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.folder import folder_reference

GREY = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_found_by_its_name_and_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    Image.fromarray(GREY).save(path)
    assert is_picture(str(path))
    assert not is_picture(f"folder/._a{suffix}")
    for channels in (1, 3):
        read = np.array(open_picture(path, channels)).reshape(4, 4, channels)
        assert np.abs(read.astype(int) - GREY[..., None]).max() <= 6  # .jpg and .webp round


def test_of_a_film_the_first_picture_is_taken(tmp_path: Path) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert np.array_equal(np.array(open_picture(tmp_path / "a.gif", 1)), GREY)


# By the EXIF standard: where row 0 and column 0 of what is stored belong.
TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: x.T[:, ::-1],
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: x.T[::-1],
}


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".jpg"])
@pytest.mark.parametrize("turn", TURNS)
def test_pictures_stand_upright(turn: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path, wide = tmp_path / f"a{suffix}", np.kron(GREY[:3], np.ones((8, 8), np.uint8))
    own: dict[str, dict[str, Any]] = {
        ".webp": {"lossless": True},
        ".tiff": {"compression": "tiff_lzw"},
    }
    options = own.get(suffix, {})
    Image.fromarray(wide).save(path, exif=exif, **options)
    read = np.array(open_picture(path, 1)).astype(int)
    assert np.abs(read - TURNS[turn](wide)).max() <= 6 * (suffix == ".jpg")


def test_a_tiff_that_pillow_mixes_up_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GREY[:3]).save(tmp_path / "a.tif", exif=exif)
    with pytest.raises(UserError, match=r"a\.tif is an uncompressed TIFF that lies on its side"):
        open_picture(tmp_path / "a.tif", 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_note_of_the_camera_costs_no_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(np.array(open_picture(tmp_path / "a.png", 1)), GREY)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    alpha = np.full((4, 4), 255, np.uint8)
    alpha[0], alpha[1] = 0, 51
    path, white = tmp_path / "a.png", GREY.astype(float)
    white[0] = 255
    if mode in ("RGBA", "LA"):
        grey = [GREY] * (len(mode) - 1)
        Image.fromarray(np.stack([*grey, alpha], -1)).save(path)
        white[1] = 0.2 * GREY[1] + 0.8 * 255
    else:  # one colour is transparent: that of the first pixel
        image = Image.fromarray(GREY).convert(mode)
        image.save(path, transparency={"P": image.getpixel((0, 0)), "L": 0}.get(mode, (0, 0, 0)))
        white = np.where(GREY == 0, 255, GREY)
    for channels in (1, 3):
        read = np.array(open_picture(path, channels)).astype(int).reshape(4, 4, channels)
        assert np.abs(read - white[..., None]).max() <= 1


def test_deep_pictures_are_refused_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"^[^\n]*deep\.png has more than 8 bits for each value$"):
        next(folder_reference(tmp_path, (3, 4, 4)).batches())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    with pytest.raises(UserError, match=r"^[^\n]*a\.png is not a readable picture: [^\n]*$"):
        open_picture(tmp_path / "a.png", 3)


def test_a_program_for_a_printer_under_the_name_of_a_picture_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program starts"))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("a program starts"))
    (tmp_path / "photo.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n0 0 moveto\nshowpage\n"
    )
    with pytest.raises(UserError, match=r"^[^\n]*photo\.png is not a readable picture: [^\n]*$"):
        open_picture(tmp_path / "photo.png", 3)
