"""Codes, and pictures by way of a VQ model, as data of the MaskGITs; and pictures of codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin.families.halton import HaltonSizes
from di4c_plugin.families.maskgit import MaskGITSizes
from di4c_plugin.hosts import OpenHost, halton, maskgit
from di4c_plugin.hosts.grid import grey, reporter
from tests.stand_ins.images import vq_files
from tests.stand_ins.images.checkouts import Root

SIDE, PIXELS = 4, {"maskgit": 8, "halton_maskgit": 8}


def host_with_vq(kind: str, root: Path, folder: Path) -> tuple[OpenHost, Any]:
    """A host whose VQ model has random weights, knowing a network for it."""
    path, model = vq_files.write_vq(kind, folder, root)
    codes = vq_files.CODES[kind]
    sizes: Any = {"hidden": 8, "codes": codes, "side": SIDE, "depth": 1, "heads": 2, "mlp": 8}
    options: Any = {"vqgan": str(path), "root": str(root), "data": str(folder / "pictures")}
    options |= {"image_size": PIXELS[kind], "cache": str(folder / "cache.npz")}
    if kind == "maskgit":
        host = maskgit.HOST(**options, mirror=True)
        host.known_sizes = MaskGITSizes(**sizes)
    else:
        host = halton.HOST(**options)
        host.known_sizes = HaltonSizes(**sizes)
    return host, model


@pytest.mark.parametrize("kind", PIXELS)
def test_pictures_become_codes_and_codes_pictures(kind: str, root: Root, tmp_path: Path) -> None:
    place = root(kind)
    if "external" not in place.parts:
        vq_files.with_stand_in(place, kind)
    host, model = host_with_vq(kind, place, tmp_path)
    pixels = np.random.default_rng(0).integers(256, size=(2, PIXELS[kind], PIXELS[kind], 3))
    for label in range(2):
        file = tmp_path / "pictures" / str(label) / "a.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(pixels[label].astype(np.uint8)).save(file)
    data = host.data()
    copies = 2 if kind == "maskgit" else 1
    assert data.x_0.shape == (2 * copies, SIDE**2)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1] * copies
    assert (tmp_path / "cache.npz").is_file()
    pictures = host.images(data.x_0.long())
    assert pictures.shape == (2 * copies, 3, PIXELS[kind], PIXELS[kind])
    with torch.no_grad():
        direct = model.decode_code(data.x_0.long().view(-1, SIDE, SIDE))
    expected = ((direct.clamp(-1, 1) + 1) / 2 * 255).round()
    assert (pictures - expected).abs().max() <= 1
    unknown = host.images(torch.full((1, SIDE**2), host.sizes.codes))
    assert unknown.unique().tolist() == [128]


def test_grey_levels_of_any_integer_type() -> None:
    codes = torch.tensor([[[0, 16], [8, 17]]], dtype=torch.uint8)
    assert grey(codes, 17).flatten().tolist() == [0, 255, 128, 128]


def test_long_work_is_told_in_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    tell = reporter("things done in this test")
    for done in range(100, 2001, 100):
        tell(done, 2000)
    reporter("few things")(1, 10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "di4c: 2000 of 2000 things done in this test"
