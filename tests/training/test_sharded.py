"""Sharded runs: the finished model, and what is left of runs that die."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.families import load_model
from di4c_plugin.training.checkpoint_file import read_checkpoint
from tests.training import sharded_runs, toy

pytestmark = pytest.mark.slow
Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def call(repository: Path) -> Call:
    def run(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", sharded_runs.__name__, str(out), *options],
            cwd=repository,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


@pytest.fixture(scope="module")
def whole(call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run on two processes."""
    out = tmp_path_factory.mktemp("whole")
    result = call(out, "fsdp", "2")
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def dead(call: Call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on two processes that died in its fifth update."""
    out = tmp_path_factory.mktemp("dead")
    assert call(out, "fsdp", "2", "dies=4").returncode == 9
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["3", "4"]
    return out


def student(out: Path) -> Model:
    return load_model(out / "student.safetensors")


def near(one: Model, other: Model) -> bool:
    pairs: Any = zip(toy.weights(one).values(), toy.weights(other).values(), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs)


def test_a_sharded_run_ends_with_the_model_of_one_process(
    call: Call, whole: Path, tmp_path: Path
) -> None:
    assert call(tmp_path, "auto", "1").returncode == 0
    assert near(student(whole), student(tmp_path))
    assert not near(student(whole), toy.student("mask_noise"))
    names = {path.name for path in whole.iterdir()}
    assert names == {
        *("run.json", "config.yaml", "last.ckpt", "shards", "logs", "student.safetensors")
    }
    assert [path.name for path in (whole / "shards").iterdir()] == ["6"]
    rows, others = toy.rows(whole), toy.rows(tmp_path)
    for update, row in others.items():
        assert float(rows[update]["distil"]) == pytest.approx(float(row["distil"]), rel=1e-4)


def test_it_goes_on_bit_for_bit_on_as_many_processes(
    call: Call, whole: Path, dead: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(dead, tmp_path / "run"))
    result = call(out, "fsdp", "2", "resume")
    assert result.returncode == 0, result.stderr
    assert toy.same(toy.weights(student(out)), toy.weights(student(whole)))


def test_it_goes_on_on_one_process(call: Call, whole: Path, dead: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(dead, tmp_path / "run"))
    result = call(out, "fsdp", "1", "resume", "dies=5")
    assert result.returncode == 9, result.stderr
    assert len(list((out / "shards" / "5").iterdir())) == 1
    # And back on two.
    result = call(out, "fsdp", "2", "resume")
    assert result.returncode == 0, result.stderr
    assert near(student(out), student(whole))


def test_a_damaged_shard_is_found_and_the_checkpoint_before_taken(
    call: Call, whole: Path, dead: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(dead, tmp_path / "run"))
    file = sorted((out / "shards" / "4").iterdir())[1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = call(out, "fsdp", "2", "resume")
    assert result.returncode == 0, result.stderr
    assert "going on from previous.ckpt, update 3" in result.stderr
    assert toy.same(toy.weights(student(out)), toy.weights(student(whole)))


def test_without_a_whole_shard_one_line_says_so(call: Call, dead: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(dead, tmp_path / "run"))
    for update in (out / "shards").iterdir():
        next(update.iterdir()).unlink()
    result = call(out, "fsdp", "2", "resume")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no other in" in result.stderr


def test_another_number_of_examples_is_another_run(
    call: Call, dead: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(dead, tmp_path / "run"))
    monkeypatch.setattr(sharded_runs, "EXAMPLES", 8)
    assert sharded_runs.main(str(out), "fsdp", "2", "resume") == 1


@pytest.mark.gpu
def test_one_accelerator_trains_shards_as_whole_networks(call: Call, tmp_path: Path) -> None:
    for name, strategy in (("auto", "auto"), ("fsdp", "fsdp")):
        result = call(tmp_path / name, strategy, "1", "gpu")
        assert result.returncode == 0, result.stderr
    assert near(student(tmp_path / "auto"), student(tmp_path / "fsdp"))


def test_last_ckpt_holds_no_sharded_weight_and_no_file_a_pickle(whole: Path) -> None:
    content = read_checkpoint(whole / "last.ckpt")
    weights = {k: v for k, v in content["state_dict"].items() if not k.endswith("_extra_state")}
    assert weights
    assert all("di4c_shard" in value for value in weights.values())
    files = list((whole / "shards" / "6").iterdir())
    assert [file.suffix for file in files] == [".safetensors"] * 2
