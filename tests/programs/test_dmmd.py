"""D-MMD inside the real MDLM, SDTT and Duo (uniform): killed and resumed, on two processes."""

from pathlib import Path

import pytest

from di4c_plugin import load_student
from tests.stand_ins import trace
from tests.stand_ins.real import (
    Lab,
    check_continued,
    check_ranks,
    check_same_state,
    checkpoint,
    traced,
)

pytestmark = [pytest.mark.host, pytest.mark.slow]

TEACHERS = {"mdlm": "mdlm", "sdtt": "mdlm", "duo": "duo_base"}
METHOD = ["algo=dmmd", "algo.steps=2", "trainer.max_steps=6", "model.dropout=0.1"]


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(lab: Lab, host: str) -> list[str]:
    return [*METHOD, f"teacher={lab.teacher(TEACHERS[host])}"]


@pytest.fixture(scope="module")
def runs(lab: Lab, host: str, command: list[str]) -> Path:
    """A folder with `whole` and `broken`, which was killed and resumed."""
    folder = lab.folder / f"dmmd_{host}"
    done = lab.run_whole_and_broken(host, *command, folder=folder, kill_at=5)
    assert "Traceback" not in done.err
    return folder


def test_a_killed_run_goes_on_exactly(runs: Path) -> None:
    check_continued(runs / "whole", runs / "broken", at=4)
    one, _ = check_same_state(runs / "whole", runs / "broken")
    assert any(name.startswith("di4c_networks.auxiliary.") for name in one["state_dict"])


def test_both_networks_learn_in_turn_by_the_methods_own_betas(runs: Path) -> None:
    saved = checkpoint(runs / "whole/checkpoints/last.ckpt")
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["role"] for group in groups] == ["student", "auxiliary"]
    assert all(tuple(group["betas"]) == (0.0, 0.99) for group in groups)
    state = saved["optimizer_states"][0]["state"]
    assert {int(state[i]["step"]) for group in groups for i in group["params"]} == {3}


def test_the_student_is_sampled_in_as_many_steps_as_it_is_for(runs: Path) -> None:
    student = load_student(runs / "whole/checkpoints/last.ckpt")
    assert student.latent is not None
    assert student.latent["name"] == "mask_noise"
    assert student.sampling == {"steps": 2, "latents": "fresh"}
    assert student.sample(2).shape == (2, 16)


def test_it_goes_on_from_a_student_of_another_method(
    lab: Lab, host: str, command: list[str], tmp_path: Path
) -> None:
    teacher, first = command[-1], tmp_path / "di4c"
    lab.run(host, "algo=di4c", "latent=token", teacher, "trainer.max_steps=1", out=first)
    start = first / "checkpoints/last.ckpt"
    lab.run(
        host, *METHOD[:2], "trainer.max_steps=1", teacher, f"student={start}", out=tmp_path / "x"
    )
    student = load_student(tmp_path / "x/checkpoints/last.ckpt")
    assert student.latent == load_student(start).latent
    assert student.sampling == {"steps": 2, "latents": "fresh"}


def test_on_two_processes(lab: Lab, host: str, command: list[str], tmp_path: Path) -> None:
    both = [*command, "algo.together=true", "trainer.devices=2"]
    lab.run(host, *both, traced(tmp_path), out=tmp_path)
    check_ranks(tmp_path)
    assert len(trace.read(tmp_path / "trace")) == 6
