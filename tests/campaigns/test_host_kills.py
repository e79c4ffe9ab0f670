"""Runs of the real hosts killed at random moments, over and over, go on bit for bit."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from di4c_plugin.checkpoints.digest import digest_of
from tests.stand_ins import image_hosts, real, trace
from tests.stand_ins.images import checkouts
from tests.stand_ins.images.place import Place
from tests.stand_ins.real import Done, Lab, check_same_state, checkpoint, together, traced

pytestmark = [pytest.mark.host, pytest.mark.slow, pytest.mark.campaign]

RUNS, KILLS = 3, 2
TEACHERS = {"mdlm": "mdlm", "sdtt": "mdlm", "duo": "duo_base"}
METHOD = [
    *("algo=di4c", "algo.latents=2", "rounds=2", "trainer.max_steps=10", "model.dropout=0.1"),
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
]
SAVED = "*/*/checkpoints/ckpt_*.pt"
# A method of ours, with a checkpoint after each update, that goes on in the folder of today. All
# batches are the same: the host itself does not go on in the middle of an epoch.
TAULDR = """
plain_config = get_config

def get_config():
    from datetime import datetime

    c = plain_config()
    c.loss.name = c.training.train_step_name = "Di4C"
    c.loss.teacher, c.loss.rounds = "{teacher}", 2
    c.loss.options = dict(name="di4c", latents=2)
    c.save_location, c.data.path, c.data.shuffle = "{out}", "{data}", False
    c.training.n_iters, c.saving.checkpoint_freq, c.saving.low_freq_loggers = 10, 1, []
    c.saving.enable_preemption_recovery = c.saving.prepare_to_resume_after_timeout = True
    c.saving.preemption_start_day_YYYYhyphenMMhyphenDD = datetime.today().strftime("%Y-%m-%d")
    return c
"""


class Moment:
    """Kills a process some seconds after its first update, whose sign is that files change.

    Args:
        out: the folder that it writes to.
        pattern: of these files.
        seconds: None: it is not killed.
    """

    def __init__(self, out: Path, pattern: str, seconds: float | None = None) -> None:
        self.out, self.pattern, self.seconds = out, pattern, seconds
        self.before, self.began = self.state(), 0.0

    def state(self) -> set[tuple[Path, int]]:
        return {(path, path.stat().st_size) for path in self.out.glob(self.pattern)}

    def __call__(self, process: "subprocess.Popen[str]") -> None:
        while self.state() == self.before:
            if process.poll() is not None:
                return
            time.sleep(0.02)
        self.began = time.time()
        if self.seconds is not None:
            time.sleep(self.seconds)
            process.kill()


Run = Callable[[Path, Moment | None], Done]


def campaign(name: str, folder: Path, pattern: str, run: Run, same: Any) -> None:
    """Compare runs that are killed with a whole one.

    Args:
        name: of the host.
        folder: of all runs.
        pattern: of files in the folder of a run that change with each update.
        run: starts the program, or goes on, in a folder.
        same: checks the folders of a whole run, and of one that was killed.
    """
    moment, draw = Moment(folder / "whole", pattern), random.Random(name)
    done = run(folder / "whole", moment)
    assert done.code == 0, done.err[-3000:]
    assert moment.began > 0
    seconds = done.ended - moment.began

    def broken(out: Path, moments: list[float]) -> int:
        early = 0
        for after in moments:
            done = run(out, Moment(out, pattern, after))
            assert done.code in (0, -9), done.err[-3000:]
            early += done.code == -9
        done = run(out, None)
        assert done.code == 0, done.err[-3000:]
        same(folder / "whole", out)
        return early

    moments = [[draw.random() * seconds / KILLS for _ in range(KILLS)] for _ in range(RUNS)]
    early = sum(together(*(partial(broken, folder / str(k), m) for k, m in enumerate(moments))))
    assert early >= RUNS * KILLS / 2
    sys.stdout.write(f"{name}: {early} of {RUNS * KILLS} kills in time\n")  # shown by -s


@pytest.mark.parametrize("host", TEACHERS)
def test_a_text_host_goes_on_exactly(lab: Lab, host: str, tmp_path: Path) -> None:
    teacher = f"teacher={lab.teacher(TEACHERS[host])}"

    def run(out: Path, moment: Moment | None) -> Done:
        return lab.run(host, *METHOD, teacher, traced(out), out=out, code=None, watch=moment)

    def same(whole: Path, broken: Path) -> None:
        expected = trace.read(whole / "trace")
        assert all(line in expected for line in trace.read(broken / "trace"))
        for one, other in zip(*(states(*check_same_state(whole, broken))), strict=True):
            assert digest_of(one) == digest_of(other)

    campaign(host, tmp_path, "trace/rank0.jsonl", run, same)


def states(*saved: Any) -> list[list[dict[str, Any]]]:
    """Moments, schedules and the host's averages of checkpoints."""
    parts = ("optimizer_states", "lr_schedulers", "ema")
    return [[{"part": each[part]} for part in parts if part in each] for each in saved]


@pytest.mark.parametrize("host_checkout", ["tauldr"], indirect=True)
def test_tauldr_goes_on_exactly(host_checkout: Path, tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    image_hosts.write_tauldr(tmp_path, host_checkout, [3, 32, 32])
    program = [sys.executable, "-m", "tests.stand_ins.image_hosts", f"{host_checkout}/train.py"]

    def start(folder: Path, moment: Moment | None = None) -> Done:
        paths = {"PYTHONPATH": f"{folder}:{host_checkout}:{repository}"}
        return real.run([*program, "cifar10"], folder, paths, moment)

    assert start(tmp_path).code == 0
    (teacher,) = tmp_path.glob("*/*/checkpoints/ckpt_0000000003.pt")
    np.save(tmp_path / "batch.npy", np.load(tmp_path / "digits.npy")[:16])
    plain = (tmp_path / "config/train/cifar10.py").read_text()

    def run(out: Path, moment: Moment | None) -> Done:
        if not out.exists():
            own = TAULDR.format(teacher=teacher, data=tmp_path / "batch.npy", out=out)
            image_hosts.write_config(out, "train", plain + own)
        return start(out, moment)

    def same(whole: Path, broken: Path) -> None:
        one, other = (checkpoint(max(out.glob(SAVED))) for out in (whole, broken))
        assert one["global_step"] == other["global_step"] == 10
        assert digest_of(one) == digest_of(other)

    campaign("tauldr", tmp_path / "runs", SAVED, run, same)


@pytest.mark.parametrize("host", ["maskgit", "halton_maskgit", "builtin"])
def test_di4c_train_goes_on_exactly(host: str, tmp_path: Path, repository: Path) -> None:
    arguments = ["train", "host=builtin"]
    if host != "builtin":
        arguments = Place(host, checkouts.real(repository, host), tmp_path).arguments()
    arguments += ["training.steps=30", "training.batch_size=2", "training.logger=csv"]
    arguments += ["training.checkpoint_every=1", "training.log_every=1", "resume=true"]
    command = [real.script_of("di4c"), *arguments]

    def run(out: Path, moment: Moment | None) -> Done:
        paths = {"PYTHONPATH": f"{repository}:{repository}/di4c_plugin/hydra_root"}
        return real.run([*command, f"out={out}"], tmp_path, paths, moment)

    def same(whole: Path, broken: Path) -> None:
        one, other = (load_file(out / "student.safetensors") for out in (whole, broken))
        assert digest_of(one) == digest_of(other)

    campaign(host, tmp_path / "runs", "logs/*/metrics.csv", run, same)
