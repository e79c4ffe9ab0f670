"""RS-MMD inside the real MDLM, SDTT and Duo (uniform): killed and resumed, after SDTT and Di4C."""

from pathlib import Path

import pytest

from di4c_plugin import load_student
from tests.stand_ins.real import Lab, check_continued, traced

pytestmark = [pytest.mark.host, pytest.mark.slow]

TEACHERS = {"mdlm": "mdlm", "sdtt": "mdlm", "duo": "duo_base"}
METHOD = ["algo=rsmmd", "algo.candidates=3", "algo.fills=1", "trainer.max_steps=4"]


@pytest.mark.parametrize("host", sorted(TEACHERS))
def test_a_killed_run_goes_on_exactly(lab: Lab, host: str, tmp_path: Path) -> None:
    command = [*METHOD, f"teacher={lab.teacher(TEACHERS[host])}", "latent=mask_noise"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = lab.run(host, *command, traced(whole), out=whole)
    assert "Traceback" not in done.err
    kill = traced(broken, kill_at=3)
    killed = lab.run(host, *command, kill, out=broken, code=None)
    assert killed.code == -9, killed.err[-2000:]
    lab.run(host, *command, kill, out=broken)
    check_continued(whole, broken, at=2)
    student = load_student(whole / "checkpoints/last.ckpt")
    assert (student.latent or {})["name"] == "mask_noise"
    assert student.sample(2, steps=2).shape == (2, 16)


def test_from_sdtt_to_di4c_to_rsmmd(lab: Lab, tmp_path: Path) -> None:
    """A student of SDTT is the teacher of a mixture, which RS-MMD goes on from."""
    teacher = f"teacher={lab.teacher('mdlm')}"
    folders = [tmp_path / name for name in ("sdtt", "di4c", "rsmmd")]
    last = [folder / "checkpoints/last.ckpt" for folder in folders]
    rounds = ["algo=sdtt", "algo.teacher_steps=4", "algo.steps=2", "trainer.max_steps=2"]
    lab.run("mdlm", *rounds, teacher, out=folders[0])
    mixture = ["algo=di4c", "latent=token", "trainer.max_steps=2"]
    lab.run("mdlm", *mixture, f"teacher={last[0]}", out=folders[1])
    lab.run("mdlm", *METHOD, teacher, f"student={last[1]}", out=folders[2])
    assert load_student(last[0]).latent is None
    assert load_student(last[2]).latent == load_student(last[1]).latent
