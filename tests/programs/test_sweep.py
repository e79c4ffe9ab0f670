"""`--multirun` in the program of a host: each job gets what it chose, and fails by itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import MakeHost
from tests.networks.backbone import state

pytestmark = pytest.mark.slow

CONFIG = """
mode: sample_eval
parameterization: subs
backbone: dit
noise: {type: loglinear}
time_conditioning: false
T: 0
training: {change_of_variables: false}
eval: {checkpoint_path: CHECKPOINT, disable_ema: true}
"""
MAIN = """
import sys
import diffusion
import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(config):
    plan = getattr(diffusion.Diffusion, "plan", None)
    sampler = plan and plan.sampler.name + str(plan.sampler.steps or "")
    print("job", HydraConfig.get().job.get("num", 0), sampler)
    if config.get("exit"):
        sys.exit(config.exit)


main()
"""


@pytest.fixture
def program(make_host: MakeHost, tmp_path: Path) -> Path:
    root = make_host("mdlm")
    weights = {f"backbone.{name}": value for name, value in state().items()}
    torch.save({"state_dict": weights}, tmp_path / "model.ckpt")
    text = CONFIG.replace("CHECKPOINT", str(tmp_path / "model.ckpt"))
    (root / "configs/config.yaml").write_text(text)
    (root / "diffusion.py").write_text("class Diffusion:\n    pass\n")
    (root / "main.py").write_text(MAIN)
    return root / "main.py"


def run(program: Path, *overrides: str) -> tuple[int, dict[int, str], list[str]]:
    """Exit code, the sampler of each job with the steps that it was told, and our lines."""
    done = subprocess.run(
        [sys.executable, program.name, *overrides, "hydra.sweep.dir=out", "hydra.run.dir=out"],
        cwd=program.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    jobs = re.findall(r"^job (\d+) (\w+)$", done.stdout, flags=re.MULTILINE)
    errors = re.findall("^di4c: error: (.*)$", done.stderr, flags=re.MULTILINE)
    return done.returncode, {int(number): name for number, name in jobs}, errors


def test_every_job_has_the_sampler_that_it_chose(program: Path) -> None:
    code, jobs, errors = run(program, "--multirun", "sampler=ancestral,maskgit")
    assert (code, errors) == (0, [])
    assert jobs == {0: "ancestral", 1: "maskgit"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("3", ["ancestral3", "maskgit3"]),
        ("3,4", ["ancestral3", "ancestral4", "maskgit3", "maskgit4"]),
    ],
)
def test_options_of_a_swept_sampler_are_its_jobs(
    program: Path, steps: str, expected: list[str]
) -> None:
    chosen = ["sampler=ancestral,maskgit", f"sampler.steps={steps}"]
    code, jobs, errors = run(program, "--multirun", *chosen)
    assert (code, errors, jobs) == (0, [], dict(enumerate(expected)))


def test_a_fixed_sampler_is_every_jobs(program: Path) -> None:
    code, jobs, errors = run(program, "--multirun", "sampler=maskgit", "+x=1,2")
    assert (code, errors, jobs) == (0, [], {0: "maskgit", 1: "maskgit"})


def test_a_single_run_is_as_it_was(program: Path) -> None:
    assert run(program, "sampler=maskgit") == (0, {0: "maskgit"}, [])
    assert run(program) == (0, {0: "None"}, [])
    code, jobs, errors = run(program, "sampler=hybrid")
    assert (code, jobs) == (2, {})
    assert errors == ["sampler=hybrid needs its teacher: add sampler.teacher=SOURCE"]


@pytest.mark.parametrize(
    ("overrides", "jobs", "count"),
    [
        (["sampler=ancestral,hybrid,maskgit"], {0: "ancestral", 2: "maskgit"}, 1),
        (["sampler=maskgit", "sampler.steps=0,1,-1,2"], {1: "maskgit1", 3: "maskgit2"}, 2),
        (["sampler=maskgit", "+exit=0,3,1"], {0: "maskgit", 1: "maskgit", 2: "maskgit"}, 0),
    ],
)
def test_one_bad_job_does_not_end_the_others(
    program: Path, overrides: list[str], jobs: dict[int, str], count: int
) -> None:
    code, done, errors = run(program, "--multirun", *overrides)
    assert done == jobs
    assert len(errors) == count
    assert code == (2 if count else 3)
