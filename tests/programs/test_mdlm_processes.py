"""`algo=di4c` in the real MDLM on two processes: Lightning's own relaunch, and torchrun."""

import json
from pathlib import Path

import pytest

from tests.stand_ins import trace
from tests.stand_ins.real import (
    Lab,
    check_continued,
    check_lost_peer,
    check_ranks,
    script_of,
    traced,
)

pytestmark = [pytest.mark.host, pytest.mark.slow]

DISTIL = ["algo=di4c", "rounds=2", "trainer.max_steps=6", "trainer.devices=2"]


@pytest.fixture(scope="module")
def distil(lab: Lab) -> list[str]:
    return [*DISTIL, f"teacher={lab.teacher('mdlm')}"]


@pytest.fixture(scope="module")
def whole(lab: Lab, distil: list[str]) -> Path:
    """The folder of a run that nobody killed."""
    out = lab.folder / "mdlm_whole"
    done = lab.run("mdlm", *distil, traced(out), out=out)
    assert done.err.count("di4c: round 2 of 2") == 1
    return out


def test_processes_differ_in_data_and_draws_and_agree_in_updates(whole: Path) -> None:
    check_ranks(whole)
    assert len(list(whole.rglob("*.ckpt"))) == len(list((whole / "checkpoints").iterdir()))
    assert (whole / "checkpoints/last.ckpt").is_file()


def test_two_processes_compute_the_gradient_of_one(
    lab: Lab, distil: list[str], whole: Path, tmp_path: Path
) -> None:
    both = f"{{_target_: tests.stand_ins.real_callbacks.BothRanks, file: {tmp_path}/both.json}}"
    one = ["trainer.devices=1", "trainer.max_steps=1", "rounds=1", f"+callbacks.both={both}"]
    lab.run("mdlm", *distil, *one, out=tmp_path / "out")
    expected = json.loads((tmp_path / "both.json").read_text())
    found = [trace.read(whole / "trace", rank)[0] for rank in range(2)]
    assert [line["data"] for line in found] == expected["data"]
    assert [line["loss"] for line in found] == pytest.approx(expected["loss"], rel=1e-5)
    assert found[0]["norm"] == pytest.approx(expected["norm"], rel=1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other(
    lab: Lab, distil: list[str], whole: Path, tmp_path: Path, rank: int
) -> None:
    command = [*distil, traced(tmp_path, kill_at=5, kill_rank=rank)]
    done = lab.run("mdlm", *command, out=tmp_path, code=None)
    check_lost_peer(done, tmp_path, killed=rank, at=5)
    if rank == 0:  # test_duo.py and test_sdtt.py resume after the other one's death
        lab.run("mdlm", *command, out=tmp_path)
        check_continued(whole, tmp_path, ranks=2, at=4)


def test_torchrun(lab: Lab, distil: list[str], whole: Path, tmp_path: Path) -> None:
    """The same numbers as by Lightning's own relaunch, and one folder."""
    two = ("--standalone", "--nproc-per-node", "2", "--no-python", script_of("di4c"), "run")
    out = tmp_path / "out"
    lab.run("mdlm", *distil, traced(out), out=out, program=(script_of("torchrun"), *two))
    for rank in range(2):
        assert trace.read(out / "trace", rank) == trace.read(whole / "trace", rank)
    assert list(tmp_path.iterdir()) == [out]
