"""A third party's method of two networks inside the real MDLM, SDTT and Duo, killed and resumed."""

from pathlib import Path

import pytest

from di4c_plugin import load_student
from tests.stand_ins import trace
from tests.stand_ins.real import (
    Lab,
    check_continued,
    check_lost_peer,
    check_ranks,
    check_same_state,
    checkpoint,
    traced,
)

pytestmark = [pytest.mark.host, pytest.mark.slow]

TEACHERS = {"mdlm": "mdlm", "sdtt": "mdlm", "duo": "duo_base"}
METHOD = ["algo=mutual", "trainer.max_steps=6", "model.dropout=0.1"]


@pytest.fixture(scope="module", params=sorted(TEACHERS))
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def command(lab: Lab, host: str) -> list[str]:
    return [*METHOD, f"teacher={lab.teacher(TEACHERS[host])}"]


@pytest.fixture(scope="module")
def runs(lab: Lab, host: str, command: list[str], example_plugin: str) -> Path:
    """A folder with `whole` and `broken`, which was killed and resumed."""
    folder = lab.folder / f"mutual_{host}"
    done = lab.run_whole_and_broken(
        host, *command, folder=folder, kill_at=5, PYTHONPATH=example_plugin
    )
    assert "Traceback" not in done.err
    return folder


def test_a_killed_run_goes_on_exactly(runs: Path) -> None:
    check_continued(runs / "whole", runs / "broken", at=4)
    one, _ = check_same_state(runs / "whole", runs / "broken")
    assert any(name.startswith("di4c_networks.peer.") for name in one["state_dict"])
    assert any(name.startswith("di4c_averages.peer.") for name in one["state_dict"])


def test_the_networks_learn_in_turn_at_rates_of_their_own(runs: Path) -> None:
    saved = checkpoint(runs / "whole/checkpoints/last.ckpt")
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["role"] for group in groups] == ["student", "peer"]
    assert groups[1]["lr"] == pytest.approx(groups[0]["lr"] / 2)
    steps = {
        group["role"]: {
            int(saved["optimizer_states"][0]["state"][i]["step"]) for i in group["params"]
        }
        for group in groups
    }
    assert steps == {"student": {4}, "peer": {2}}


def test_the_student_without_a_latent_is_read_and_sampled(runs: Path) -> None:
    student = load_student(runs / "whole/checkpoints/last.ckpt")
    assert student.latent is None
    assert student.sample(2, steps=2).shape == (2, 16)


def test_on_two_processes(
    lab: Lab, host: str, command: list[str], example_plugin: str, tmp_path: Path
) -> None:
    two, path = [*command, "trainer.devices=2"], example_plugin
    lab.run(host, *two, traced(tmp_path / "whole"), out=tmp_path / "whole", PYTHONPATH=path)
    check_ranks(tmp_path / "whole")
    kill = traced(tmp_path / "broken", kill_at=5, kill_rank=1)
    done = lab.run(host, *two, kill, out=tmp_path / "broken", code=None, PYTHONPATH=path)
    check_lost_peer(done, tmp_path / "broken", killed=1, at=5)
    lab.run(host, *two, kill, out=tmp_path / "broken", PYTHONPATH=path)
    check_continued(tmp_path / "whole", tmp_path / "broken", ranks=2, at=4)
    assert len(trace.read(tmp_path / "whole/trace")) == 6
