"""Arrays out of files, and what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from di4c_plugin.data.arrays import check_whole, read_arrays, read_labels, small
from di4c_plugin.errors import UserError


def test_arrays_of_both_kinds_of_files(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.uint16).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", codes=x, labels=[0, 1])
    assert read_arrays(tmp_path / "x.npy", "codes").keys() == {"codes"}
    assert np.array_equal(read_arrays(tmp_path / "x.npy", "codes")["codes"], x)
    assert read_arrays(tmp_path / "x.npz", "codes").keys() == {"codes", "labels"}
    with pytest.raises(UserError, match="has no array 'levels'; there are: codes, labels"):
        read_arrays(tmp_path / "x.npz", "levels")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "object.npz", codes=np.array([{}]))
    np.savez(tmp_path / "cut.npz", codes=np.ones(100))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:300])
    (tmp_path / "text.npy").write_text("codes")
    (tmp_path / "empty.npz").touch()
    for name in ("object.npy", "object.npz", "cut.npz", "text.npy", "empty.npz"):
        with pytest.raises(UserError, match=f"^[^\n]*{name} is not a readable .npy or[^\n]*$"):
            read_arrays(tmp_path / name, "codes")
    with pytest.raises(UserError, match="no such file or folder: .*nowhere"):
        read_arrays(tmp_path / "nowhere.npy", "codes")


def test_values_are_whole_and_in_range() -> None:
    check_whole(np.array([0, 4], np.uint8), 0, 4, "x")
    for values, message in (
        (np.array([0.0]), "x must be whole numbers, not float64"),
        (np.array([], int), "x are none"),
        (np.array([0, 5]), "x are 0 ... 4 here, and there are 0 ... 5"),
        (np.array([-1, 3]), "x are 0 ... 4 here, and there are -1 ... 3"),
        (np.array([2**64 - 1], np.uint64), f"there are {2**64 - 1}"),
    ):
        with pytest.raises(UserError, match=message):
            check_whole(values, 0, 4, "x")


@pytest.mark.parametrize(("most", "dtype"), [(2**15 - 1, torch.int16), (2**15, torch.int32)])
def test_values_are_kept_small(most: int, dtype: torch.dtype) -> None:
    for kind in (np.uint16, np.int64, ">u4"):
        kept = small(np.array([[0, most]], kind), most)
        assert kept.dtype == dtype
        assert kept.tolist() == [[0, most]]


def test_labels() -> None:
    path = Path("x.npz")
    assert read_labels({}, 2, 10, path) is None
    found = read_labels({"labels": np.array([9, 0], np.uint8)}, 2, 10, path)
    assert found is not None
    assert found.dtype == torch.int64
    assert found.tolist() == [9, 0]
    for labels, message in (
        ([1], "x.npz: labels of shape .1,. for 2 examples"),
        ([0, 10], "x.npz: labels are 0 ... 9 here, and there are 0 ... 10"),
        ([0.0, 1.0], "x.npz: labels must be whole numbers"),
    ):
        with pytest.raises(UserError, match=message):
            read_labels({"labels": np.array(labels)}, 2, 10, path)
