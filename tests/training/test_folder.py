from pathlib import Path

import pytest
import torch

from di4c_plugin.errors import UserError
from di4c_plugin.training.folder import RunFolder

DESCRIPTION = {"algo": {"name": "a", "n": 4}, "training": {"lr": 0.1, "log_every": 10}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder with a run that can be resumed."""
    folder = RunFolder(tmp_path / "run", DESCRIPTION)
    folder.claim(resume=False)
    torch.save({"step": torch.tensor(1)}, folder.checkpoint)
    return folder


def test_another_run_is_refused_unless_told(run: RunFolder) -> None:
    with pytest.raises(UserError, match="run holds another run"):
        run.check(resume=False, overwrite=False)
    run.check(resume=False, overwrite=True)
    run.check(resume=True, overwrite=False)
    with pytest.raises(UserError, match="exclude each other"):
        run.check(resume=True, overwrite=True)


def test_overwriting_removes_the_run_and_nothing_else(run: RunFolder) -> None:
    (run.path / "student.safetensors").touch()
    (run.path / "notes.txt").touch()
    run.claim(resume=False)
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "notes.txt"}


def test_only_the_same_run_is_resumed(run: RunFolder) -> None:
    other = {"algo": {"name": "a", "n": 5}, "training": {"lr": 0.1, "log_every": 10}}
    with pytest.raises(UserError, match=r"is another run: algo.n was 4, and is 5 now$"):
        RunFolder(run.path, other).check(resume=True, overwrite=False)


def test_how_often_to_log_may_change(run: RunFolder) -> None:
    other = {"algo": {"name": "a", "n": 4}, "training": {"lr": 0.1, "log_every": 50}}
    RunFolder(run.path, other).check(resume=True, overwrite=False)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(run: RunFolder, content: bytes) -> None:
    run.checkpoint.write_bytes(content)
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        run.check(resume=True, overwrite=False)


def test_a_truncated_checkpoint_is_damaged(run: RunFolder) -> None:
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:-100])
    with pytest.raises(UserError, match="last.ckpt is damaged"):
        run.check(resume=True, overwrite=False)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run is not a folder"):
        RunFolder(tmp_path / "run", DESCRIPTION).check(resume=False, overwrite=False)
