"""`algo=di4c` and `sampler=…` inside the real Duo, by its own main.py: uniform and absorbing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import load_student
from tests.stand_ins import stdlib_text, trace
from tests.stand_ins.real import (
    LENGTH,
    Done,
    Lab,
    check_continued,
    check_lost_peer,
    check_ranks,
    check_same,
    checkpoint,
    compared,
    together,
    traced,
)

pytestmark = [pytest.mark.host, pytest.mark.slow]

# An epoch of five batches, so that both the kill and the checkpoint are in the second one.
DISTIL = ["algo=di4c", "rounds=2", "trainer.max_steps=8", "trainer.limit_train_batches=5"]


@pytest.fixture(scope="module")
def runs(lab: Lab) -> Path:
    """A folder with runs: `whole`, `broken` (killed, then resumed), and `absorbing`."""
    folder, uniform = lab.folder / "duo", f"teacher={lab.teacher('duo_base')}"
    absorbing = f"teacher={lab.teacher('duo_mdlm')}"
    whole, broken, masked = (folder / name for name in ("whole", "broken", "absorbing"))
    whole.mkdir(parents=True)
    masked.mkdir()

    kill = traced(broken, kill_at=7)
    _, killed, _ = together(
        lambda: lab.run("duo", *DISTIL, uniform, traced(whole), compared(whole), out=whole),
        lambda: lab.run("duo", *DISTIL, uniform, kill, out=broken, code=None),
        lambda: lab.run("duo", *DISTIL, absorbing, traced(masked), compared(masked), out=masked),
    )
    assert killed.code == -9
    lab.run("duo", *DISTIL, uniform, kill, out=broken)
    return folder


def sample(lab: Lab, out: Path, checkpoint: Path, *overrides: str) -> Done:
    return lab.run(
        "duo", "mode=sample_eval", f"eval.checkpoint_path={checkpoint}", *overrides, out=out
    )


def written(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "samples.json").read_text())
    return found


def test_a_killed_run_goes_on_exactly(runs: Path) -> None:
    check_continued(runs / "whole", runs / "broken", at=6)
    assert [line["step"] for line in trace.read(runs / "whole/trace")] == list(range(1, 9))


@pytest.mark.parametrize(("name", "process"), [("whole", "uniform"), ("absorbing", "absorbing")])
def test_the_checkpoint_is_plain_and_our_own_network_the_same_function(
    runs: Path, name: str, process: str
) -> None:
    last = runs / name / "checkpoints/last.ckpt"
    notes = checkpoint(last)["di4c"]
    assert notes["process"]["name"] == process
    assert notes["run"]["round"] == 1
    check_same(runs / name)
    assert "posterior" in json.loads((runs / name / "same.json").read_text())
    x = load_student(last).sample(3, steps=2, prefix=[5, 6], seed=1)
    assert x.shape == (3, LENGTH)
    assert (x[:, :2] == torch.tensor([5, 6])).all()


def test_the_hosts_script_samples_students_and_teachers(
    lab: Lab, runs: Path, tmp_path: Path
) -> None:
    uniform, absorbing = (runs / name / "checkpoints/last.ckpt" for name in ("whole", "absorbing"))
    ids = [-1] * LENGTH
    ids[3:6] = [40, 41, 42]
    (tmp_path / "known.json").write_text(json.dumps(ids))
    known = f"sampler.known={tmp_path}/known.json"
    hybrid = ["sampler=hybrid", f"sampler.teacher={lab.teacher('duo_base')}", "sampler.steps=3"]
    strided = ["sampling.semi_ar=true", "sampling.stride_length=4", "sampling.num_strides=2"]
    masks = ["sampler=di4c", "algo=mdlm"]
    first, _, one, mixed, product, long = together(
        lambda: sample(lab, tmp_path / "0", uniform, "sampler=di4c"),
        lambda: sample(lab, tmp_path / "1", uniform, "sampler=di4c"),
        lambda: sample(lab, tmp_path / "2", uniform, "sampler=di4c", "sampling.steps=1", known),
        lambda: sample(lab, tmp_path / "3", uniform, *hybrid, "sampler.prefix='de '"),
        lambda: sample(lab, tmp_path / "4", lab.teacher("duo_base"), "sampler=ancestral"),
        lambda: sample(lab, tmp_path / "5", absorbing, *masks, *strided),
    )
    assert first.reports[0][:3] == (4, "di4c", 4)
    assert 0 < first.reports[0][3] < 3
    assert written(tmp_path / "0") == written(tmp_path / "1")
    assert written(tmp_path / "0")["entropy"] == pytest.approx(first.reports[0][3], abs=0.01)
    assert one.reports[0][1:3] == ("di4c", 1)
    assert mixed.reports[0][1:3] == ("hybrid", 3)
    assert product.reports[0][1:3] == ("ancestral", 4)
    assert [steps for _, _, steps, _ in long.reports] == [4] * 3
    assert all(text.startswith("de ") for text in written(tmp_path / "3")["generated_seqs"])
    middle = "".join(stdlib_text.TOKENS[40:43])
    assert all(middle in text for text in written(tmp_path / "2")["generated_seqs"])


def test_two_processes(lab: Lab, tmp_path: Path) -> None:
    """They differ in data and draws, and go on exactly after one is killed."""
    distil = [*DISTIL, "trainer.devices=2", f"teacher={lab.teacher('duo_base')}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lab.run("duo", *distil, traced(whole), out=whole)
    check_ranks(whole)
    kill = traced(broken, kill_at=7, kill_rank=1)
    check_lost_peer(lab.run("duo", *distil, kill, out=broken, code=None), broken, killed=1, at=7)
    lab.run("duo", *distil, kill, out=broken)
    check_continued(whole, broken, ranks=2, at=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


def test_accumulation_and_the_plain_configs_name(lab: Lab, tmp_path: Path) -> None:
    """Micro-batches, and perplexity by the host's own mode under the name of the teacher's algo."""
    out = tmp_path / "out"
    accumulate = ["loader.batch_size=2", "trainer.accumulate_grad_batches=2"]
    teacher, distil = f"teacher={lab.teacher('duo_base')}", [*DISTIL[:1], "trainer.max_steps=3"]
    lab.run("duo", *distil, *accumulate, teacher, traced(out), out=out)
    assert [line["step"] for line in trace.read(out / "trace")] == [0, 1, 1, 2, 2, 3]
    student = f"eval.checkpoint_path={out}/checkpoints/last.ckpt"
    done = lab.run(
        "duo", "mode=ppl_eval", "sampler=di4c", "algo=duo", student, out=tmp_path / "ppl"
    )
    assert "val/ppl" in done.out


def test_mistakes(lab: Lab, tmp_path: Path) -> None:
    def mistake(out: str, *overrides: str) -> Done:
        return lab.run("duo", *overrides, out=tmp_path / out, code=None)

    evaluate = ["mode=sample_eval", f"eval.checkpoint_path={lab.teacher('duo_base')}"]
    nowhere, sampler, process = together(
        lambda: mistake("0", "algo=di4c", f"teacher={tmp_path}/no.ckpt"),
        lambda: mistake("1", *evaluate, "sampler=ancestrall"),
        lambda: mistake(
            "2", "algo=di4c", f"teacher={lab.teacher('duo_base')}", "algo.diffusion=absorbing"
        ),
    )
    assert nowhere.errors == [f"no such model file: teacher={tmp_path}/no.ckpt"]
    assert "Available options in 'sampler'" in sampler.err
    (line,) = process.errors
    assert "name differs" in line
    assert (nowhere.code, sampler.code, process.code) == (2, 1, 2)
    assert "Traceback" not in nowhere.err + sampler.err + process.err
