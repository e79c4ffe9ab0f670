import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.statistics import Statistics, read_statistics, write_statistics

RECORD = {"reference": "pictures in here", "size": [3, 8, 8], "inception": "0f", "pictures": 7}


def statistics() -> Statistics:
    mu = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Statistics(mu, torch.eye(4, dtype=torch.float64) * 2, RECORD)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "reference.npz"
    write_statistics(statistics(), path)
    return path


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


def test_what_is_written_is_read(path: Path) -> None:
    read = read_statistics(path, {"reference": "pictures in here", "size": [3, 8, 8]})
    assert torch.equal(read.mu, statistics().mu)
    assert torch.equal(read.sigma, statistics().sigma)
    assert read.record == RECORD
    assert [file.name for file in path.parent.iterdir()] == ["reference.npz"]


def test_other_tools_can_read_mean_and_covariance(path: Path) -> None:
    content = arrays(path)
    assert (content["mu"].shape, content["sigma"].shape) == ((4,), (4, 4))
    assert json.loads(str(content["record"])) == RECORD


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"inception": "1e"}, "inception is '0f' there and '1e' here"),
        ({"size": [1, 8, 8]}, "size is [3, 8, 8] there and [1, 8, 8] here"),
        ({"resizing": "none"}, "resizing is None there and 'none' here"),
    ],
)
def test_statistics_of_other_pictures_are_refused(
    path: Path, expected: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_statistics(path, expected)
    assert str(caught.value) == f"{path} holds statistics of other pictures: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": None}, "holds no record: statistics that say what they are of"),
        ({"mu": None, "sigma": None}, "holds no mu and no sigma: "),
        ({"record": np.array("{")}, "is a damaged file of statistics"),
        ({"record": np.array("[1]")}, "is a damaged file of statistics"),
        ({"sigma": np.eye(3)}, "is a damaged file of statistics"),
        ({"mu": np.full(4, np.nan)}, "is a damaged file of statistics"),
        ({"mu": np.array(list("abcd"))}, "is a damaged file of statistics"),
    ],
)
def test_damaged_files_are_refused(path: Path, change: dict[str, Any], message: str) -> None:
    content = {k: v for k, v in (arrays(path) | change).items() if v is not None}
    np.savez(path, **content)
    with pytest.raises(UserError) as caught:
        read_statistics(path, {})
    assert str(caught.value).startswith(f"{path} {message}")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["text", "cut", "npy", "pickle", "objects"])
def test_other_files_are_refused_and_nothing_in_them_runs(kind: str, path: Path) -> None:
    bomb = Bomb(path.parent / "run")
    if kind == "text":
        path.write_text("no statistics")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))  # one array, and not by these names
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        np.savez(path, mu=np.array([bomb], dtype=object))
    with pytest.raises(UserError, match="is no readable file of statistics: "):
        read_statistics(path, {})
    assert not bomb.path.exists()


def test_statistics_are_npz_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pt must end in \.npz$"):
        write_statistics(statistics(), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
