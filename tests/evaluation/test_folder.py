from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import folder as module
from di4c_plugin.evaluation.folder import folder_reference, read_picture


def write(path: Path, pixels: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.byte().numpy()).save(path)
    return path


def test_all_pictures_come_in_order_and_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    for k, name in enumerate(["a/1.png", "a/2.PNG", "b/c/3.bmp"]):
        write(tmp_path / name, torch.full((4, 4), k))
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    reference = folder_reference(tmp_path, (1, 4, 4))
    for _ in range(2):  # it can be read again
        batches = list(reference.batches())
        assert [tuple(part.shape) for part in batches] == [(2, 1, 4, 4), (1, 1, 4, 4)]
        assert torch.cat(batches)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert reference.name == f"pictures in {tmp_path}"
    assert reference.resizing == "centre crop, bicubic to 4x4"


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path: Path) -> None:
    pixels = torch.randint(256, (5, 6, 3), generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "x.png", pixels)
    read = read_picture(path, (3, 5, 6))
    assert read.dtype == torch.uint8
    assert torch.equal(read.movedim(0, -1).long(), pixels)


def test_the_centre_is_kept_and_resized(tmp_path: Path) -> None:
    pixels = torch.zeros(8, 24, 3)
    pixels[:, 8:16] = 200  # the centre; what is cut off is black
    for size in (8, 4, 16):
        read = read_picture(write(tmp_path / f"{size}.png", pixels), (3, size, size))
        assert read.shape == (3, size, size)
        edge = 0 if size == 8 else size // 4  # a resized picture is cut, not a cut one resized
        assert (read[..., edge : size - edge] - 200.0).abs().max() <= 3


@pytest.mark.parametrize(("channels", "values"), [(1, [76]), (3, [255, 0, 0])])
def test_colours_become_those_of_the_samples(
    tmp_path: Path, channels: int, values: list[int]
) -> None:
    red = torch.tensor([255, 0, 0]).expand(4, 4, 3)
    read = read_picture(write(tmp_path / "red.png", red), (channels, 4, 4))
    assert read[:, 0, 0].tolist() == values


def test_grey_and_transparent_files_have_three_channels_too(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), 9, np.uint8)
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    write(tmp_path / "grey.png", torch.full((4, 4), 9))
    (pictures,) = folder_reference(tmp_path, (3, 4, 4)).batches()
    assert pictures.shape == (2, 3, 4, 4)
    assert (pictures == 9).all()


def test_hidden_folders_and_loops_of_links_are_no_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", ".thumbs/b.png", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, torch.full((4, 4), 9))
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "deep" / "d.heic").touch()
    (pictures,) = folder_reference(tmp_path, (3, 4, 4)).batches()
    assert len(pictures) == 2
    line = f"{tmp_path}: 2 pictures; left out: 1 .heic, 1 hidden, 1 links back to folders"
    assert line in capsys.readouterr().err


def test_mistakes_come_when_the_pictures_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no such folder of pictures: .*nowhere$"):
        next(folder_reference(tmp_path / "nowhere", (3, 4, 4)).batches())
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"holds no pictures \(\.bmp, .*; left out: 1 \.txt$"):
        next(folder_reference(tmp_path, (3, 4, 4)).batches())
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n, and no more")
    with pytest.raises(UserError, match=r"x\.png is not a readable picture: ") as caught:
        next(folder_reference(tmp_path, (3, 4, 4)).batches())
    assert "\n" not in str(caught.value)
