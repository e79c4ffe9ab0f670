"""The stand-in for torchvision; the values were compared with torchvision 0.29, bit for bit."""

import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from di4c_plugin.programs.shims import packages

OURS = "di4c_plugin.programs.shims.stand_ins.torchvision.torchvision"


@pytest.fixture
def transforms() -> Any:
    return import_module(f"{OURS}.transforms")


@pytest.fixture
def utils() -> Any:
    return import_module(f"{OURS}.utils")


def picture(height: int, width: int) -> Image.Image:
    """Every pixel tells where it is: red its row, green its column."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8))


def where(cropped: Image.Image) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop."""
    pixels = np.array(cropped)
    return int(pixels[0, 0, 0]), int(pixels[0, 0, 1]), *pixels.shape[:2]


def test_it_is_where_packages_look() -> None:
    assert (packages.STAND_INS / "torchvision/torchvision/utils.py").is_file()


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [(8, (9, 13), (8, 11)), (8, (13, 9), (11, 8)), (6, (6, 20), (6, 20)), ((3, 5), (9, 9), (3, 5))],
)
def test_resize_keeps_the_ratio_unless_told(
    size: Any, shape: tuple[int, int], expected: tuple[int, int], transforms: Any
) -> None:
    assert transforms.Resize(size)(picture(*shape)).size == expected[::-1]


def test_crops(transforms: Any) -> None:
    assert where(transforms.CenterCrop(4)(picture(9, 10))) == (2, 3, 4, 4)
    torch.manual_seed(0)
    crops = {where(transforms.RandomCrop((4, 3))(picture(5, 5))) for _ in range(60)}
    assert crops == {(top, left, 4, 3) for top in range(2) for left in range(3)}
    same = picture(4, 4)
    assert transforms.RandomCrop(4)(same) is same


def test_flips(transforms: Any) -> None:
    always, never = transforms.RandomHorizontalFlip(1.0), transforms.RandomHorizontalFlip(0.0)
    x = torch.arange(6).view(1, 2, 3)
    assert always(x).tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert np.array(always(picture(2, 3)))[0, :, 1].tolist() == [2, 1, 0]
    assert never(x) is x


def test_tensors_of_pictures(transforms: Any) -> None:
    compose = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([0.0, 0.5, 0.5], [0.5, 1.0, 0.5])]
    )
    x = compose(picture(3, 2))
    assert x.shape == (3, 3, 2)
    assert x[0, :, 0].tolist() == pytest.approx([0, 2 / 255, 4 / 255])
    assert x[1, 0].tolist() == pytest.approx([-0.5, 1 / 255 - 0.5])
    assert transforms.ToTensor()(picture(3, 2).convert("L")).shape == (1, 3, 2)


def test_a_grid(utils: Any) -> None:
    x = torch.arange(1.0, 4).view(3, 1, 1, 1).expand(3, 1, 2, 1)
    grid = utils.make_grid(x, nrow=2, padding=1, pad_value=9)
    assert grid.shape == (3, 7, 5)
    assert grid[0].tolist() == [
        [9, 9, 9, 9, 9],
        *[[9, 1, 9, 2, 9]] * 2,
        [9, 9, 9, 9, 9],
        *[[9, 3, 9, 9, 9]] * 2,
        [9, 9, 9, 9, 9],
    ]
    assert utils.make_grid(x, normalize=True, padding=0)[0, 0].tolist() == [0, 0.5, 1]
    assert utils.make_grid(x[:1]).shape == (3, 2, 1)


def test_a_saved_picture(utils: Any, tmp_path: Path) -> None:
    x = torch.tensor([0.0, 0.5, 2.0]).view(1, 1, 3).expand(3, 2, 3)
    utils.save_image(x, tmp_path / "a.png")
    assert np.array(Image.open(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 128, 255]
    utils.save_image(x.expand(4, 3, 2, 3), tmp_path / "b.png", nrow=2, padding=0)
    assert Image.open(tmp_path / "b.png").size == (6, 4)


def test_a_folder_of_pictures(transforms: Any, tmp_path: Path) -> None:
    datasets = import_module(f"{OURS}.datasets")
    with pytest.raises(FileNotFoundError, match="class folder"):
        datasets.ImageFolder(tmp_path)
    for k, name in enumerate(("dog/b.PNG", "dog/a/z.jpg", "cat/c.png", "cat/readme.txt")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            picture(2, 2 + k).convert("L").save(tmp_path / name)
    data = datasets.ImageFolder(tmp_path, transform=transforms.ToTensor())
    assert data.class_to_idx == {"cat": 0, "dog": 1}
    assert [(x.shape, y) for x, y in (data[i] for i in range(len(data)))] == [
        ((3, 2, 4), 0),
        ((3, 2, 3), 1),
        ((3, 2, 2), 1),
    ]
    assert datasets.ImageFolder(tmp_path)[0][0].mode == "RGB"


def test_a_folder_of_pictures_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("a program starts"))
    (tmp_path / "a").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a" / "a.png")
    (tmp_path / "a" / "b.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    )
    folder = import_module(f"{OURS}.datasets").ImageFolder(str(tmp_path))
    assert folder[0][0].size == (2, 2)
    with pytest.raises(UnidentifiedImageError):
        folder[1]
