"""Codes and levels as hosts and users leave them."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.data.codes import holds_codes, read_codes, read_levels, to_levels
from di4c_plugin.errors import UserError
from di4c_plugin.families.importing import host_module
from tests.stand_ins.images.picture_files import ramp, write_picture
from tests.stand_ins.images.vq_files import Bomb

LIMITS: dict[str, Any] = {"side": 2, "codes": 20, "classes": 10}
CODES = np.arange(12).reshape(3, 2, 2)


def write_code_files(folder: Path, dtype: str = "uint16", protocol: int = 4) -> Path:
    """As Halton-MaskGIT's extract_vq_features.py."""
    folder.mkdir(parents=True)
    for k, code in enumerate(CODES):
        record = {"code": code.astype(dtype), "y": 9 - k}
        (folder / f"{k:07d}.pth").write_bytes(pickle.dumps(record, protocol))
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_codes_of_an_npz(flat: bool, tmp_path: Path) -> None:
    codes = CODES.reshape(3, 4) if flat else CODES
    np.savez(tmp_path / "x.npz", codes=codes.astype(np.uint16), labels=[9, 0, 3])
    data = read_codes(tmp_path / "x.npz", **LIMITS)
    assert data.x_0.dtype == torch.int16
    assert data.x_0.tolist() == CODES.reshape(3, 4).tolist()
    assert data.labels is not None
    assert data.labels.tolist() == [9, 0, 3]


def test_codes_of_an_npy_have_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CODES)
    data = read_codes(str(tmp_path / "x.npy"), **LIMITS | {"codes": 70000})
    assert data.labels is None
    assert data.x_0.dtype == torch.int32
    assert data.x_0.tolist() == CODES.reshape(3, 4).tolist()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("below", ["", "Train"])
def test_codes_of_a_folder(below: str, protocol: int, tmp_path: Path) -> None:
    write_code_files(tmp_path / "feat" / below, protocol=protocol)
    if below:
        write_code_files(tmp_path / "feat" / "Eval", dtype="int32")
    calls: list[tuple[int, int]] = []
    data = read_codes(
        tmp_path / "feat", **LIMITS, progress=lambda done, all_: calls.append((done, all_))
    )
    assert data.x_0.tolist() == CODES.reshape(3, 4).tolist()
    assert data.labels is not None
    assert data.labels.tolist() == [9, 8, 7]
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.host
def test_codes_are_those_of_the_hosts_data_set(
    real_root: Callable[[str], Path], tmp_path: Path
) -> None:
    root = real_root("halton_maskgit")
    folder = write_code_files(tmp_path / "feat")
    found = host_module("halton_maskgit", "Dataset.dataset", root).CodeDataset(str(folder))
    data = read_codes(folder, **LIMITS)
    assert len(found) == len(data.x_0) == 3
    assert data.labels is not None
    for k in range(3):
        assert found[k]["code"].ravel().tolist() == data.x_0[k].tolist()
        assert found[k]["y"] == int(data.labels[k])


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    folder = write_code_files(tmp_path / "feat")
    (folder / "0000001.pth").write_bytes(pickle.dumps({"code": Bomb(), "y": 1}))
    with pytest.raises(UserError, match="0000001.pth does not hold codes"):
        read_codes(folder, **LIMITS)


def test_what_holds_codes(tmp_path: Path) -> None:
    write_code_files(tmp_path / "feat" / "Train")
    write_picture(tmp_path / "pictures" / "a" / "x.png", ramp(4, 4))
    assert holds_codes(tmp_path / "feat")
    assert holds_codes(tmp_path / "feat" / "Train")
    assert holds_codes("x.npz")
    assert holds_codes(tmp_path / "nowhere")
    assert not holds_codes(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"codes": 11}, "x.npz: codes are 0 ... 10 here, and there are 0 ... 11"),
        ({"side": 16}, "x.npz has 3 examples of 2 x 2: this network takes 16 x 16"),
        ({"classes": 3}, "x.npz: labels are 0 ... 2 here, and there are 0 ... 3"),
    ],
)
def test_codes_of_another_network(limits: dict[str, int], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", codes=CODES, labels=[0, 3, 1])
    with pytest.raises(UserError, match=f"^[^\n]*{message}$"):
        read_codes(tmp_path / "x.npz", **LIMITS | limits)


def test_what_are_no_codes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_code_files(tmp_path / "feat")
    (folder / "0000002.pth").write_bytes(pickle.dumps({"code": CODES[0, 0], "y": 1}))
    write_code_files(tmp_path / "negative", "int32")
    (tmp_path / "negative" / "0000000.pth").write_bytes(
        pickle.dumps({"code": CODES[0] - 1, "y": 1})
    )
    (write_code_files(tmp_path / "cut") / "0000000.pth").write_bytes(b"\x80\x04}")
    (write_code_files(tmp_path / "keys") / "0000000.pth").write_bytes(pickle.dumps({"code": 1}))
    np.savez(tmp_path / "floats.npz", codes=CODES / 2)
    np.savez(tmp_path / "none.npz", codes=CODES[:0])
    np.save(tmp_path / "zero.npy", np.array(3))
    for name, message in (
        ("nowhere", "no such file or folder: .*nowhere"),
        ("empty", r"no codes in .*empty: it has no files \*.pth of extract_vq_features.py"),
        ("feat", r"0000002.pth: codes of shape \(2,\), not \(2, 2\) as before"),
        ("negative", "negative: codes are 0 ... 19 here, and there are -1 ... 11"),
        ("cut", "0000000.pth is not a readable pickle: "),
        ("keys", "0000000.pth does not hold codes"),
        ("floats.npz", "floats.npz: codes must be whole numbers, not float64"),
        ("none.npz", "none.npz has 0 examples"),
        ("zero.npy", "zero.npy has 0 examples"),
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
            read_codes(tmp_path / name, **LIMITS)


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 255, 256, 300])
def test_pixels_become_levels_by_rounding(levels: int) -> None:
    pixels = np.arange(256, dtype=np.uint8)
    found = to_levels(pixels, levels)
    assert np.array_equal(found, np.round(np.arange(256) * (levels - 1) / 255))
    if levels <= 256:  # as they are drawn
        drawn = np.round(np.arange(levels) * 255 / (levels - 1)).astype(np.uint8)
        assert np.array_equal(to_levels(drawn, levels), np.arange(levels))


def test_levels_of_a_folder_are_in_the_order_c_h_w(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(2, 3, 4, 3))  # (M, H, W, C)
    for k, x in enumerate(pixels):
        write_picture(tmp_path / str(k) / "x.png", x)
    data = read_levels(tmp_path, shape=(3, 3, 4), levels=256)
    assert data.labels is None
    assert data.x_0.dtype == torch.int16
    assert data.x_0.tolist() == pixels.transpose(0, 3, 1, 2).reshape(2, 36).tolist()
    fewer = read_levels(tmp_path, shape=(3, 3, 4), levels=17)
    assert torch.equal(fewer.x_0, (data.x_0 * 16 / 255).round().to(torch.int16))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_levels_of_a_file_and_mirrored(suffix: str, flat: bool, tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4)
    given, file = x.reshape(2, 12) if flat else x, tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(file, given)
    else:
        np.savez(file, levels=given)
    assert read_levels(file, shape=(1, 3, 4), levels=24).x_0.tolist() == x.reshape(2, 12).tolist()
    both = read_levels(file, shape=(1, 3, 4), levels=24, mirror=True).x_0
    wanted = np.concatenate([x, x[..., ::-1]]).reshape(4, 12)
    assert both.tolist() == wanted.tolist()


def cifar_of_python_2(rows: bytes, count: int) -> bytes:
    """CIFAR-10's published pickles: byte strings of Python 2 (opcode U, T), numpy's old names."""
    text = b"U" + bytes([4]) + b"data"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    shape = b"K" + bytes([count]) + b"M\x00\x0c\x86"
    state = b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(rows)) + rows + b"tb"
    labels = b"U" + bytes([6]) + b"labels](K\x03K\x04e"
    return b"\x80\x02}(" + text + made + state + labels + b"u."


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar_10s_own_files(below: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(256, size=(4, 3072)).astype(np.uint8)
    folder = tmp_path / "root" / below
    folder.mkdir(parents=True)
    for k in (0, 1):
        content = cifar_of_python_2(rows[2 * k : 2 * k + 2].tobytes(), 2)
        assert np.array_equal(pickle.loads(content, encoding="bytes")[b"data"][0], rows[2 * k])
        (folder / f"data_batch_{k + 1}").write_bytes(content)
    (folder / "test_batch").write_bytes(b"not read")
    data = read_levels(tmp_path / "root", shape=(3, 32, 32), levels=256)
    assert data.x_0.tolist() == rows.tolist()
    with pytest.raises(UserError, match=r"pictures of shape \(3, 32, 32\), not \(1, 8, 8\)"):
        read_levels(tmp_path / "root", shape=(1, 8, 8), levels=256)
    # As Python 3 writes it, keys and all.
    (folder / "data_batch_1").write_bytes(pickle.dumps({b"data": rows[:2], b"labels": [1, 2]}))
    assert torch.equal(read_levels(folder, shape=(3, 32, 32), levels=256).x_0, data.x_0)
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": rows[:, :9]}))
    with pytest.raises(UserError, match="data_batch_2 is none of CIFAR-10's Python batches"):
        read_levels(folder, shape=(3, 32, 32), levels=256)


def test_what_are_no_levels(tmp_path: Path) -> None:
    options: Any = {"shape": (3, 2, 2), "levels": 16}
    np.save(tmp_path / "last.npy", np.zeros((2, 2, 2, 3), int))
    np.save(tmp_path / "many.npy", np.full((2, 12), 16))
    np.savez(tmp_path / "codes.npz", codes=np.zeros((2, 12), int))
    write_picture(tmp_path / "pictures" / "big.png", ramp(4, 4))
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("nowhere", "no such folder: .*nowhere"),
        ("nowhere.npz", "no such file or folder: .*nowhere.npz"),
        ("empty", "no pictures in .*empty"),
        ("last.npy", "last.npy has 2 examples of 2 x 2 x 3: this network takes 3 x 2 x 2"),
        ("many.npy", "many.npy: levels are 0 ... 15 here, and there are 16 ... 16"),
        ("codes.npz", "codes.npz has no array 'levels'; there are: codes"),
        ("pictures", "big.png is of 4 x 4 pixels, not 2 x 2"),
    ):
        with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
            read_levels(tmp_path / name, **options)
