"""What is found in a folder of pictures, and what is left out and said."""

import os
from collections import Counter
from pathlib import Path

import pytest

from di4c_plugin.announce import announce_once
from di4c_plugin.data.picture_folders import find_pictures
from di4c_plugin.data.pictures import read_pictures
from di4c_plugin.errors import UserError
from tests.stand_ins.images.picture_files import ramp, write_picture


def folder_with(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).suffix == ".png":
            write_picture(folder / name, ramp(4, 4))
        else:
            (folder / name).touch()
    return folder


SPLITS: dict[str, tuple[list[str], str, tuple[str, ...]]] = {
    # files, the folder that is read, its classes
    "a class": (["bus/1.png", "car/1.png", "train/1.png"], "", ("bus", "car", "train")),
    "a class beside a test": (
        ["bus/1.png", "test/1.png", "train/1.png"],
        "",
        ("bus", "test", "train"),
    ),
    "a split": (["train/a/1.png", "train/b/1.png", "val/a/1.png"], "train", ("a", "b")),
    "a split in capitals": (["Train/a/1.png", "Val/a/1.png"], "Train", ("a",)),
    "a split by itself": (["train/a/1.png"], "train", ("a",)),
    "a split without classes": (["train/1.png", "test/1.png"], "train", ()),
    "a split beside notes": (
        ["train/a/1.png", "devkit/x.txt", "annotations/y.xml"],
        "train",
        ("a",),
    ),
    "classes alone": (["bus/1.png", "val/1.png"], "", ("bus", "val")),
}


@pytest.mark.parametrize("case", SPLITS)
def test_train_is_a_split_only_where_no_classes_are_beside_it(case: str, tmp_path: Path) -> None:
    names, place, classes = SPLITS[case]
    found = find_pictures(folder_with(tmp_path, *names))
    assert found.folder == tmp_path / place
    assert found.classes == classes
    assert len(found.files) == sum(Path(name).parts[0] == place or not place for name in names)
    assert sum(found.counts) == (len(found.files) if classes else 0)


def test_what_may_be_split_or_class_is_asked(tmp_path: Path) -> None:
    folder_with(tmp_path, "bus/1.png", "train/steam/1.png")
    with pytest.raises(
        UserError, match="^.*train is the training split, or a class beside bus: na"
    ):
        find_pictures(tmp_path)
    assert find_pictures(tmp_path / "train").classes == ("steam",)


def test_all_that_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce_once.cache_clear()
    folder_with(tmp_path, "train/a/1.png", "train/a/2.HEIC", "train/a/deep/3.avif", "val/a/9.png")
    folder_with(tmp_path, "train/a/.thumbs/4.png", "train/.cache/5.png", "train/b/6.gif.png")
    folder_with(tmp_path, "train/b/__MACOSX/7.png", "train/b/notes", "train/b/8.heic", "x.png")
    (tmp_path / "train/b/gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "train/b/pipe.png")
    pictures = read_pictures(tmp_path, 4)
    assert pictures.files == ("a/1.png", "b/6.gif.png")
    assert capsys.readouterr().err == (
        f"di4c: {tmp_path}/train: 2 pictures in 2 classes (a, b); left out: 1 .avif, 2 .heic, "
        "1 folder val, 3 hidden, 2 links to nothing, or no files, 1 pictures beside it, "
        "1 without a suffix\n"
    )


def test_links_are_followed_and_not_in_circles(tmp_path: Path) -> None:
    folder_with(tmp_path, "top/a/1.png", "top/b/2.png", "else/3.png")
    top = tmp_path / "top"
    for name, place in {
        "a/up": "..",
        "a/self": ".",
        "a/out": "../../else",
        "b/one": "../../else",
        "b/two": "../../else",
        "b/circle": "circle",
        "b/file.png": "../a/1.png",
    }.items():
        (top / name).symlink_to(place)
    found = find_pictures(top)
    assert found.classes == ("a", "b")
    assert found.counts == (2, 3)
    assert {"a/1.png", "a/out/3.png", "b/2.png", "b/file.png"} < set(found.files)
    assert found.skipped == Counter(
        {"links back to folders": 3, "links to nothing, or no files": 1}
    )


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path, "a/1.png", "b/2.png")
    real = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="^cannot read .*b: Permission denied$"):
        find_pictures(tmp_path)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        find_pictures(tmp_path / "nowhere")
    folder_with(tmp_path, "a/x.heic", ".hidden/1.png")
    with pytest.raises(
        UserError, match=r"no pictures in .*left out: 1 \.heic, 1 hid.* known are .*png"
    ):
        find_pictures(tmp_path)
    folder_with(tmp_path, "b/x.png")
    with pytest.raises(
        UserError, match=r"no pictures in .*a, which counts as a class; left out: 1"
    ):
        find_pictures(tmp_path)
    folder_with(tmp_path, "loose.png")
    with pytest.raises(UserError, match=r"pictures beside its folders of classes.*loose\.png"):
        find_pictures(tmp_path)
