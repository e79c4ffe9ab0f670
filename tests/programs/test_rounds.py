"""SDTT inside the real MDLM and SDTT, Duo's DCD inside Duo: rounds, killed and resumed in each."""

import json
from pathlib import Path

import pytest
import torch

from di4c_plugin import load_student
from tests.stand_ins.real import Lab, check_continued, check_same_state, checkpoint, traced

pytestmark = [pytest.mark.host, pytest.mark.slow]

METHODS = {"mdlm": ("sdtt", "mdlm"), "sdtt": ("sdtt", "mdlm"), "duo": ("dcd", "duo_base")}
OPTIONS = ["algo.teacher_steps=16", "algo.steps=2", "trainer.max_steps=6", "model.dropout=0.1"]
ROUNDS = [
    "algo.renew=[optimiser,average]",
    "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
]


@pytest.fixture(scope="module", params=sorted(METHODS))
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(lab: Lab, host: str) -> list[str]:
    algo, teacher = METHODS[host]
    return [f"algo={algo}", *OPTIONS, *ROUNDS, f"teacher={lab.teacher(teacher)}"]


@pytest.fixture(scope="module")
def whole(lab: Lab, host: str, command: list[str]) -> Path:
    folder = lab.folder / f"rounds_{host}" / "whole"
    done = lab.run(host, *command, traced(folder), out=folder)
    assert "Traceback" not in done.err
    for number in (2, 3):
        assert f"round {number} of 3: the student (its EMA) is now the teacher" in done.err
    return folder


@pytest.mark.parametrize("killed_at", [2, 3, 4])
def test_a_run_killed_around_a_boundary_goes_on_exactly(
    lab: Lab, host: str, command: list[str], whole: Path, killed_at: int, tmp_path: Path
) -> None:
    kill = traced(tmp_path, kill_at=killed_at)
    killed = lab.run(host, *command, kill, out=tmp_path, code=None)
    assert killed.code == -9, killed.err[-2000:]
    lab.run(host, *command, kill, out=tmp_path)
    check_continued(whole, tmp_path, at=killed_at - 1)
    one, other = check_same_state(whole, tmp_path)
    for a, b in zip(one["ema"]["shadow_params"], other["ema"]["shadow_params"], strict=True):
        assert torch.equal(a, b)


def test_moments_and_average_started_anew_with_the_last_round(whole: Path) -> None:
    saved = checkpoint(whole / "checkpoints/last.ckpt")
    assert {int(s["step"]) for s in saved["optimizer_states"][0]["state"].values()} == {2}
    assert saved["ema"]["num_updates"] == 2


def test_the_student_is_sampled_in_as_many_steps_as_it_is_for(whole: Path) -> None:
    student = load_student(whole / "checkpoints/last.ckpt")
    assert student.latent is None
    assert student.sampling == {"steps": 2, "latents": "fresh"}
    assert student.sample(2).shape == (2, 16)


def test_other_rounds_than_the_steps_say_are_refused(
    lab: Lab, host: str, command: list[str], tmp_path: Path
) -> None:
    done = lab.run(host, *command, "rounds=2", out=tmp_path, code=None)
    assert done.code != 0
    (line,) = set(done.errors)
    assert line.startswith("16 steps become 2 in 3 rounds, not 2")


def test_with_noise_in_the_mask_it_is_im_sdtt(lab: Lab, tmp_path: Path) -> None:
    teacher = lab.teacher("mdlm")
    noise = ["latent=mask_noise", "latent.std=0.5"]
    lab.run("mdlm", "algo=sdtt", *OPTIONS, *noise, f"teacher={teacher}", out=tmp_path)
    student = load_student(tmp_path / "checkpoints/last.ckpt")
    assert student.latent is not None
    assert student.latent["name"] == "mask_noise"


def test_ours_is_the_loss_of_the_hosts_own_code(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "losses.json"
    compared = f"+callbacks.own={{_target_: tests.stand_ins.real_callbacks.OwnLoss, file: {file}}}"
    teacher = f"teacher={lab.teacher('mdlm')}"
    lab.run("sdtt", "algo=sdtt", *OPTIONS, teacher, compared, out=tmp_path / "run")
    found = json.loads(file.read_text())
    assert len(found) == 8
    for name, (ours, theirs, gap) in found.items():
        assert ours == pytest.approx(theirs, rel=1e-5), name
        assert ours > 0.01, name
        assert gap < 1e-4, name
