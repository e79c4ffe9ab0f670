"""A run whose checkpoint is damaged anyhow: one line, or it ends as if nothing had been."""

import random
import shutil
from pathlib import Path

import pytest
from torch import Tensor

from di4c_plugin.announce import announce_once
from di4c_plugin.families import load_model
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.campaigns.outcome import Tally
from tests.training import toy
from tests.training.test_checkpoint_file import changed

CONFIG = TrainingConfig(steps=4, batch_size=2, checkpoint_every=1, logger="none")

FILES = {"run.json", "config.yaml", "last.ckpt", "student.safetensors"}


class Killed(BaseException):
    pass


class Stops(toy.Distil):
    """Ends before the fourth update."""

    def losses(self, *arguments: object) -> object:  # type: ignore[override]
        if len(self.totals) == 3:
            raise Killed
        return super().losses(*arguments)  # type: ignore[arg-type]


def run(out: Path, algorithm: type[toy.Distil] = toy.Distil, *, resume: bool = False) -> None:
    student = toy.student()
    method, data = algorithm(student.process), toy.data()
    train(method, student, toy.teacher(), data, CONFIG, out, resume=resume, progress=False)


def weights(out: Path) -> dict[str, Tensor]:
    return toy.weights(load_model(out / "student.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.campaign)])
def test_a_damaged_run_is_refused_or_ends_as_it_would_have(
    tmp_path: Path, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    draw, tally = random.Random(1), Tally()
    run(tmp_path / "whole")
    whole = weights(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", Stops)
    out, helped = tmp_path / "run", 0
    for number in range(count):
        shutil.copytree(tmp_path / "killed", out)
        file, alone = out / "last.ckpt", number % 2
        file.write_bytes(changed(file.read_bytes(), draw))
        if alone:
            (out / "previous.ckpt").unlink()
        announce_once.cache_clear()
        capfd.readouterr()
        outcome = tally.read(number, lambda: run(out, resume=True), named="last.ckpt")
        told = capfd.readouterr().err.splitlines()
        if outcome == "read":
            assert toy.same(weights(out), whole)
            assert {each.name for each in out.iterdir()} == FILES
        assert outcome == "read" or alone
        expected = f"di4c: {file} is damaged: going on from previous.ckpt, update 2"
        assert [line for line in told if line.startswith("di4c")] in ([], [expected])
        helped += bool(told)
        shutil.rmtree(out)
    assert helped > count / 4
    tally.check(count)
