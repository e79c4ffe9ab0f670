"""Folders of pictures: what is found, how it is labelled, cut and mirrored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin.data.pictures import all_pixels, batches, read_pictures
from di4c_plugin.errors import UserError
from tests.stand_ins.images.picture_files import ramp, write_picture


def folder_of_classes(folder: Path) -> Path:
    for k, name in enumerate(["b/1.png", "b/deep/2.PNG", "a/3.bmp", "a/10.png", "c/0.png"]):
        write_picture(folder / name, np.full((4, 4), 10 * k))
    (folder / "a" / "notes.txt").touch()
    (folder / "a" / "._3.png").touch()
    (folder / ".hidden").mkdir()
    return folder


def test_classes_are_sub_folders_by_sorted_names(tmp_path: Path) -> None:
    found = read_pictures(folder_of_classes(tmp_path), (1, 4, 4), classes=3)
    assert found.files == ("a/10.png", "a/3.bmp", "b/1.png", "b/deep/2.PNG", "c/0.png")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert found.labels.dtype == torch.int64
    assert all_pixels(found)[:, 0, 0, 0].tolist() == [30, 20, 0, 10, 40]
    with pytest.raises(UserError, match="has 3 classes, and the network 2"):
        read_pictures(tmp_path, 4, classes=2)


@pytest.mark.parametrize("split", ["train", "Train"])
def test_the_training_pictures_are_taken(split: str, tmp_path: Path) -> None:
    folder_of_classes(tmp_path / split)
    write_picture(tmp_path / "val" / "a" / "x.png", ramp(4, 4))
    found = read_pictures(tmp_path, 4)
    assert found.folder == tmp_path / split
    assert len(found) == 5


def test_pictures_without_classes(tmp_path: Path) -> None:
    for name in ("2.png", "1.png"):
        write_picture(tmp_path / name, ramp(4, 4))
    (tmp_path / "empty").mkdir()
    found = read_pictures(tmp_path, 4, classes=0)
    assert found.files == ("1.png", "2.png")
    assert found.labels is None
    assert found.all_labels() is None


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp"])
def test_kinds_of_files(suffix: str, tmp_path: Path) -> None:
    write_picture(tmp_path / f"x.{suffix}", np.full((4, 4, 3), [200, 100, 50]))
    (x,) = read_pictures(tmp_path, (3, 4, 4))
    assert x.shape == (3, 4, 4)
    means = x.float().mean((1, 2))
    torch.testing.assert_close(means, torch.tensor([200.0, 100.0, 50.0]), atol=6, rtol=0)


def test_channels_are_converted(tmp_path: Path) -> None:
    write_picture(tmp_path / "grey.png", ramp(4, 4))
    Image.fromarray(ramp(4, 4)).convert("P").save(tmp_path / "palette.png")
    grey = torch.from_numpy(ramp(4, 4)).expand(3, 4, 4)
    assert all(torch.equal(x, grey) for x in read_pictures(tmp_path, (3, 4, 4)))
    assert all(torch.equal(x, grey[:1]) for x in read_pictures(tmp_path, (1, 4, 4)))


# (height, width) and the first row and column of the middle 4 x 4: halves go to the even number,
# as in torchvision's CenterCrop.
@pytest.mark.parametrize(
    ("size", "first"),
    [((4, 4), (0, 0)), ((4, 10), (0, 3)), ((10, 4), (3, 0)), ((4, 5), (0, 0)), ((4, 7), (0, 2))],
)
def test_the_middle_is_cut_out(
    size: tuple[int, int], first: tuple[int, int], tmp_path: Path
) -> None:
    pixels = ramp(*size)
    write_picture(tmp_path / "x.png", pixels)
    (x,) = read_pictures(tmp_path, 4)
    top, left = first
    wanted = torch.from_numpy(pixels[top : top + 4, left : left + 4])
    assert torch.equal(x, wanted.expand(3, 4, 4))


def test_the_shorter_side_is_resized(tmp_path: Path) -> None:
    # A plane: filters that know no direction leave it a plane, but for its edges. Of 17 columns
    # 8 are left, in steps of 17 / 8, and the middle 4 begin at column 2.
    rows, columns = np.mgrid[:8, :17]
    write_picture(tmp_path / "x.png", 20 + 8 * rows + 6 * columns)
    (x,) = read_pictures(tmp_path, 4)
    y = torch.arange(4) * 2 + 0.5
    z = (torch.arange(4) + 2.5) * 17 / 8 - 0.5
    wanted = 20 + 8 * y[1:3, None] + 6 * z
    torch.testing.assert_close(x[0, 1:3].float(), wanted, atol=1, rtol=0)


def test_mirrored_pictures_follow(tmp_path: Path) -> None:
    folder_of_classes(tmp_path)
    write_picture(tmp_path / "a" / "3.bmp", ramp(4, 4))
    plain = read_pictures(tmp_path, (1, 4, 4))
    found = read_pictures(tmp_path, (1, 4, 4), mirror=True)
    assert len(found) == 10
    assert torch.equal(found[6], plain[1].flip(-1))
    assert not torch.equal(found[6], found[1])
    assert torch.equal(all_pixels(found), torch.cat([all_pixels(plain), all_pixels(plain).flip(3)]))
    labels = found.all_labels()
    assert labels is not None
    assert labels.tolist() == [0, 0, 1, 1, 2] * 2
    with pytest.raises(IndexError):
        found[10]


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_batches_are_all_pictures_in_order(size: int, tmp_path: Path) -> None:
    found = read_pictures(folder_of_classes(tmp_path), (1, 4, 4))
    parts = list(batches(found, size))
    assert {len(part) for part in parts[:-1]} <= {size}
    assert torch.equal(torch.cat(parts), torch.stack(list(found)))


def test_a_wrong_size_names_the_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", ramp(4, 4))
    write_picture(tmp_path / "odd.png", ramp(5, 4))
    found = read_pictures(tmp_path, (3, 4, 4))
    with pytest.raises(UserError, match=r"odd\.png is of 4 x 5 pixels, not 4 x 4"):
        all_pixels(found)


def test_damaged_and_deep_pictures_name_the_file(tmp_path: Path) -> None:
    whole = write_picture(tmp_path / "cut.png", np.random.default_rng(0).integers(255, size=(9, 9)))
    whole.write_bytes(whole.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(ramp(4, 4).astype(np.uint16) * 100).save(tmp_path / "deep.png")
    found = read_pictures(tmp_path, 4)
    for k, message in enumerate(
        ["cut.png is not a readable", "deep.png has more than 8 bits", "text.jpg is not a readable"]
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
            found[k]


def test_a_picture_too_narrow_to_cut_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "line.png", np.zeros((1, 10_000)))
    with pytest.raises(UserError, match=r"line\.png is more than 100 times as long as wide$"):
        read_pictures(tmp_path, 256)[0]


def test_more_channels_than_pictures_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        read_pictures(tmp_path, (2, 4, 4))
