"""Pictures become codes once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.data.codes import read_codes
from di4c_plugin.data.encoding import encode
from di4c_plugin.data.pictures import Pictures, read_pictures
from di4c_plugin.data.vq import VQ
from di4c_plugin.errors import UserError
from tests.stand_ins.images.picture_files import write_picture

CODES = 200


class Cells(nn.Module):
    """A code for each 2 x 2 pixels: by the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.num_resolutions = 2  # type: ignore[assignment]
        self.rows: list[int] = []

    def encode(self, x: Tensor) -> Any:
        assert not torch.is_grad_enabled()
        self.rows.append(len(x))
        first = (x[:, 0, ::2, ::2] + 1) / 2 * 255
        return None, None, (None, None, first.round().long().flatten())


class Broken(Cells):
    def encode(self, x: Tensor) -> Any:
        raise AssertionError("encoded again")


def vq(model: nn.Module | None = None, fingerprint: str = "a") -> VQ:
    return VQ(model or Cells(), CODES, fingerprint, "the model")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "di4c_plugin" / "codes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of 4 x 4 in two classes; their greys are 0 ... 199."""
    values = np.random.default_rng(0).integers(CODES, size=(5, 2, 2))
    for k, x in enumerate(values):
        large = x.repeat(2, 0).repeat(2, 1)
        write_picture(tmp_path / "pictures" / "ab"[k // 3] / f"{k}.png", large)
    return tmp_path / "pictures"


def pixels(pictures: Pictures) -> Tensor:
    return torch.stack(list(pictures))[:, 0, ::2, ::2].flatten(1)


@pytest.mark.parametrize("mirror", [False, True])
def test_codes_and_labels(mirror: bool, folder: Path) -> None:
    pictures, model = read_pictures(folder, 4, mirror=mirror), Cells()
    calls: list[tuple[int, int]] = []
    data = encode(
        pictures, vq(model), batch_size=2, progress=lambda done, all_: calls.append((done, all_))
    )
    assert data.x_0.dtype == torch.int16
    assert torch.equal(data.x_0, pixels(pictures).to(torch.int16))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1] * (1 + mirror)
    assert calls[-1] == (len(pictures), len(pictures))
    assert max(model.rows) == 2


def fail(done: int, all_: int) -> None:
    raise AssertionError("nothing is to be done")


def test_the_cache_is_read_by_all_that_matters(folder: Path, cache: Path) -> None:
    pictures = read_pictures(folder, 4)
    first = encode(pictures, vq())
    again = encode(pictures, vq(Broken()), progress=fail)
    assert torch.equal(again.x_0, first.x_0)
    assert again.x_0.dtype == first.x_0.dtype
    assert sorted(file.suffix for file in cache.iterdir()) == [".lock", ".npz"]
    for other, model in (
        (read_pictures(folder, 2), vq(Broken())),
        (read_pictures(folder, 4, mirror=True), vq(Broken())),
        (pictures, vq(Broken(), "b")),
    ):
        with pytest.raises(AssertionError, match="encoded again"):
            encode(other, model)
    changed = folder / "a" / "0.png"
    state = changed.stat()
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(AssertionError, match="encoded again"):
        encode(read_pictures(folder, 4), vq(Broken()))


class Slow(Cells):
    """Leaves the others the time to come as well."""

    def encode(self, x: Tensor) -> Any:
        time.sleep(0.2)
        return super().encode(x)


@pytest.mark.parametrize("named", [False, True])
def test_of_those_that_start_at_once_one_encodes(named: bool, folder: Path, tmp_path: Path) -> None:
    pictures, models = read_pictures(folder, 4), [Slow(), Slow(), Slow()]
    start, file = Barrier(len(models)), tmp_path / "x.npz" if named else None

    def together(model: Slow) -> Tensor:
        start.wait()
        return encode(pictures, vq(model), cache=file, batch_size=2).x_0

    with ThreadPoolExecutor(len(models)) as pool:
        found = list(pool.map(together, models))
    assert sorted(sum(model.rows) for model in models) == [0, 0, 5]
    for x_0 in found:
        assert torch.equal(x_0, pixels(pictures).to(torch.int16))


def test_a_named_cache_is_a_file_of_codes(folder: Path, tmp_path: Path, cache: Path) -> None:
    pictures, file = read_pictures(folder, 4), tmp_path / "new" / "my.codes"
    first = encode(pictures, vq(), cache=file)
    assert file.is_file()
    assert not cache.exists()
    again = encode(pictures, vq(Broken()), cache=str(file))
    assert torch.equal(first.x_0, again.x_0)
    read = read_codes(file, side=2, codes=CODES, classes=2)
    assert torch.equal(read.x_0, first.x_0)
    assert read.labels is not None
    assert first.labels is not None
    assert torch.equal(read.labels, first.labels)


def test_a_named_file_of_others_is_left_alone(folder: Path, tmp_path: Path) -> None:
    pictures = read_pictures(folder, 4)
    encode(pictures, vq(), cache=tmp_path / "x.npz")
    np.savez(tmp_path / "foreign.npz", codes=np.ones((5, 2, 2), int))
    (tmp_path / "text.npz").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.glob("*.npz")}
    for name, message in (
        ("x", "x.npz holds codes of other pictures, another size or another VQGAN"),
        ("foreign", "foreign.npz holds codes of other"),
        ("text", "text.npz is not a readable"),
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
            encode(pictures, vq(Broken(), "b"), cache=tmp_path / f"{name}.npz")
    assert {file: file.read_bytes() for file in tmp_path.glob("*.npz")} == before


def test_a_damaged_file_in_our_own_cache_is_made_anew(folder: Path, cache: Path) -> None:
    pictures = read_pictures(folder, 4)
    first = encode(pictures, vq())
    file, _ = sorted(cache.iterdir())  # and its lock
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(encode(pictures, vq()).x_0, first.x_0)
    assert torch.equal(encode(pictures, vq(Broken())).x_0, first.x_0)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_broken_pictures_cost_no_codes(
    mirror: bool, named: bool, folder: Path, tmp_path: Path, cache: Path
) -> None:
    file = tmp_path / "named" / "x.npz" if named else None
    wanted = encode(read_pictures(folder, 4, mirror=mirror), vq()).x_0
    for old in cache.iterdir():
        old.unlink()
    whole = {name: (folder / name).read_bytes() for name in ("a/2.png", "b/4.png")}
    (folder / "b" / "4.png").write_bytes(whole["b/4.png"][:60])
    (folder / "a" / "2.png").write_text("no picture")
    first = Cells()
    said = r"^[^\n]*[24]\.png is not a readable picture: [^\n]* \(and 1 more\); the codes of all "
    with pytest.raises(UserError, match=said):
        encode(read_pictures(folder, 4, mirror=mirror), vq(first), cache=file, batch_size=1)
    assert sum(first.rows) == 3 * (1 + mirror)
    for name, content in whole.items():
        (folder / name).write_bytes(content)
    second, calls = Cells(), list[tuple[int, int]]()
    found = encode(
        read_pictures(folder, 4, mirror=mirror),
        vq(second),
        cache=file,
        batch_size=1,
        progress=lambda done, all_: calls.append((done, all_)),
    )
    assert torch.equal(found.x_0, wanted)
    assert sum(second.rows) == 2 * (1 + mirror)
    assert calls[-1] == (len(wanted), len(wanted))
    place = cache if file is None else file.parent
    assert not list(place.glob("*.part.npz"))


class Ended(Cells):
    """Ends in the third batch, as by Ctrl-C."""

    def encode(self, x: Tensor) -> Any:
        if len(self.rows) == 2:
            raise KeyboardInterrupt
        return super().encode(x)


def test_an_ended_run_goes_on(folder: Path, cache: Path) -> None:
    pictures = read_pictures(folder, 4)
    with pytest.raises(KeyboardInterrupt):
        encode(pictures, vq(Ended()), batch_size=1)
    (part,) = cache.glob("*.part.npz")
    before = part.read_bytes()
    part.write_bytes(before[:50])  # damaged: all is done anew
    with pytest.raises(KeyboardInterrupt):
        encode(pictures, vq(Ended()), batch_size=1)
    assert part.read_bytes()[:50] == before[:50]
    other = Cells()
    with pytest.raises(AssertionError, match="encoded again"):  # of another VQ model: nothing
        encode(pictures, vq(Broken(), "b"), batch_size=1)
    found = encode(pictures, vq(other), batch_size=1)
    assert sum(other.rows) == 3
    assert torch.equal(found.x_0, pixels(pictures).to(torch.int16))


def test_what_is_done_is_written_from_time_to_time(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("di4c_plugin.data.partial_codes.EVERY", -1)
    seen: list[int] = []

    def look(done: int, all_: int) -> None:
        (part,) = cache.glob("*.part.npz")
        seen.append(len(np.load(part)["codes"]))

    encode(read_pictures(folder, 4), vq(), batch_size=2, progress=look)
    assert seen == [2, 4, 5]


def test_a_model_that_fails_leaves_no_file(folder: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="3 x 3 pixels are no grid of codes: the model"):
        encode(read_pictures(folder, 3), vq())
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_what_cannot_be_written_is_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot keep codes in .*x\.npz: "):
        encode(read_pictures(folder, 4), vq(Broken()), cache=tmp_path / "file" / "x.npz")
