import subprocess
from pathlib import Path

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
