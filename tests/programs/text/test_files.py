"""A run's folder that was moved, damaged, or left by a run that was killed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from di4c_plugin.announce import announce_once
from di4c_plugin.training.checkpoint_file import read_checkpoint
from tests.stand_ins.text import stand_in

pytestmark = pytest.mark.filterwarnings("ignore:.*(irpath|heckpoint directory)")
SAVING = {"every_n_train_steps": 1, "save_last": True}


def fit(folder: Path, steps: int, *, resume: Path | None = None, **options: Any) -> Any:
    announce_once.cache_clear()
    module = stand_in.student()
    saving = SAVING | options
    trainer = stand_in.trainer(folder, saving, max_steps=steps, limit_val_batches=0)
    trainer.fit(module, stand_in.loader(), ckpt_path=resume)
    return module


def step(path: Path) -> int:
    return int(read_checkpoint(path)["global_step"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, 6)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The folder of a run that ended after 3 of 6 updates."""
    fit(tmp_path / "run", 3)
    return tmp_path / "run"


def same(one: Any, other: Any) -> bool:
    weights, others = one.state_dict(), other.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("di4c")]


def test_checkpoints_have_a_digest(whole: tuple[Path, Any]) -> None:
    content = torch.load(whole[0] / "last.ckpt", weights_only=True)
    assert len(content["di4c_digest"]) == 64


def test_a_folder_that_was_moved_stays_one_run(
    broken: Path, tmp_path: Path, whole: tuple[Path, Any]
) -> None:
    """Twice, so that nothing of the first place is left."""
    for number, steps in enumerate((4, 6)):
        folder = tmp_path / f"moved{number}"
        broken = broken.rename(folder)
        ended = fit(folder, steps, resume=folder / "last.ckpt")
        assert step(folder / "last.ckpt") == steps
        assert not list(folder.glob("last-v*"))
    assert same(ended, whole[1])


def test_a_folder_with_a_newer_last_v1_goes_on_from_that(
    broken: Path, whole: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(broken / "step=3.ckpt", broken / "last-v1.ckpt")
    shutil.copy(broken / "step=1.ckpt", broken / "last.ckpt")
    capsys.readouterr()
    ended = fit(broken, 6, resume=broken / "last.ckpt")
    line = f"di4c: {broken}/last.ckpt is of update 1, last-v1.ckpt of update 3: going on from that"
    assert lines(capsys) == [line]
    assert same(ended, whole[1])
    assert step(broken / "last.ckpt") == 6


@pytest.mark.parametrize("fault", ["cut", "bit"])
def test_where_the_last_is_damaged_the_one_before_serves(
    broken: Path, whole: tuple[Path, Any], capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    for name in ("last.ckpt", "step=3.ckpt"):
        data = bytearray((broken / name).read_bytes())
        weight = read_checkpoint(broken / name)["state_dict"]["backbone.vocab_embed.embedding"]
        data[data.index(weight.numpy().tobytes()[:40])] ^= 1
        (broken / name).write_bytes(data[:-50] if fault == "cut" else data)
    capsys.readouterr()
    ended = fit(broken, 6, resume=broken / "last.ckpt")
    (line,) = lines(capsys)
    assert line == f"di4c: {broken}/last.ckpt is damaged: going on from step=2.ckpt, update 2"
    assert same(ended, whole[1])


def test_where_nothing_is_whole_one_line_says_so(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in broken.glob("*.ckpt"):
        file.write_bytes(b"junk")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        fit(broken, 6, resume=broken / "last.ckpt")
    assert stop.value.code == 2
    (line,) = lines(capsys)
    assert line.startswith(f"di4c: error: {broken}/last.ckpt is damaged, and no other in {broken}")


def test_what_killed_runs_left_half_written_is_removed(broken: Path) -> None:
    left = broken / f".last.{32 * 'a'}.ckpt"
    mine = [broken / ".last.ckpt", broken / ".notes", broken / f".x.{32 * 'a'}.pt"]
    for file in (left, *mine):
        file.touch()
    fit(broken, 4, resume=broken / "last.ckpt")
    assert not left.exists()
    assert all(file.exists() for file in mine)


def test_a_run_of_the_hosts_own_is_not_damaged(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hosts keep their config in it as objects; older files of ours do not stand in."""
    torch.save({"hyper_parameters": OmegaConf.create({"a": 1})}, broken / "last.ckpt")
    with pytest.raises(SystemExit):
        fit(broken, 6, resume=broken / "last.ckpt")
    (line,) = lines(capsys)
    assert line.startswith(f"di4c: error: {broken}/last.ckpt was not written by this algo: the fol")
