"""`algo=di4c` and `sampler=…` inside the real SDTT, by its own main.py; its teachers in MDLM."""

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from di4c_plugin import load_student, load_teacher
from tests.stand_ins import trace
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

DISTIL = ["algo=di4c", "rounds=2", "trainer.max_steps=6", "model.dropout=0.1"]
SHORT = ["algo=di4c", "trainer.max_steps=2"]


@pytest.fixture(scope="module")
def runs(lab: Lab) -> Path:
    """A folder with `whole` and `broken` (killed, then resumed), from two rounds of SDTT."""
    folder, teacher = lab.folder / "sdtt", f"teacher={lab.teacher('sdtt')}"
    whole = folder / "whole"
    whole.mkdir(parents=True)
    same = (compared(whole),)
    lab.run_whole_and_broken("sdtt", *DISTIL, teacher, folder=folder, kill_at=5, whole=same)
    return folder


@pytest.fixture(scope="module")
def student(runs: Path) -> Path:
    return runs / "whole/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def official(lab: Lab) -> Path:
    """A student of random weights as released: a Lightning file of one network, no notes."""
    file = lab.folder / "official/sdtt7-di4c2.ckpt"
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 8

    plain = load_teacher(lab.teacher("mdlm")).denoiser.network.state_dict()
    weights = {f"backbone.{name}": random(*value.shape) for name, value in plain.items()}
    for name, rows, columns in (("0", 512, 128), ("2", 32, 512)):
        weights[f"backbone.latent_projection.{name}.weight"] = random(rows, columns)
        weights[f"backbone.latent_projection.{name}.bias"] = random(rows)
    file.parent.mkdir()
    torch.save({"state_dict": weights}, file)
    return file


def sample(lab: Lab, out: Path, checkpoint: Path, *overrides: str, kind: str = "uncond") -> Done:
    numbers = {"run": "true", "num_samples": 4, "batch_size": 2, "num_steps": 4, "seq_len": LENGTH}
    own = [f"parameterization.sampling.{kind}.{key}={value}" for key, value in numbers.items()]
    source = f"checkpointing.resume_ckpt_path={checkpoint}"
    return lab.run("sdtt", "mode=sample", source, *own, *overrides, out=out)


def written(out: Path) -> "np.lib.npyio.NpzFile":
    (file,) = (out / "samples").rglob("*.npz")
    return np.load(file, allow_pickle=True)


def test_a_killed_run_goes_on_exactly(runs: Path) -> None:
    check_continued(runs / "whole", runs / "broken", at=4)
    assert [line["step"] for line in trace.read(runs / "whole/trace")] == [1, 2, 3, 4, 5, 6]


def test_the_checkpoint_is_plain_and_our_own_network_the_same_function(
    runs: Path, student: Path
) -> None:
    assert checkpoint(student)["di4c"]["run"]["round"] == 1
    check_same(runs / "whole")
    x = load_student(student).sample(3, steps=2, prefix=[5, 6], seed=1)
    assert x.shape == (3, LENGTH)
    assert (x[:, :2] == torch.tensor([5, 6])).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++, which is absent")
def test_a_compiled_student_learns_as_an_uncompiled_one(lab: Lab, tmp_path: Path) -> None:
    teacher, found = f"teacher={lab.teacher('sdtt')}", {}
    for value in ("false", "true"):
        out = tmp_path / value
        same = ("model.dropout=0", f"compile={value}")  # compiled dropout has draws of its own
        lab.run("sdtt", *SHORT, teacher, *same, traced(out), out=out)
        found[value] = trace.read(out / "trace")
    for key in ("loss", "norm"):
        ours, compiled = ([line[key] for line in found[value]] for value in ("false", "true"))
        assert compiled == pytest.approx(ours, rel=1e-2, abs=1e-7), key


def prefixes(lab: Lab, folder: Path) -> Path:
    """The text as a data set with the split that the host looks for."""
    folder.mkdir()
    lines = (lab.text / "text/validation/validation.txt").read_text()
    (folder / "valid.txt").write_text(lines)
    files = "data_files:\n  - {split: valid, path: valid.txt}"
    card = f"---\nconfigs:\n- config_name: default\n  {files}\n---\n"
    (folder / "README.md").write_text(card)
    return folder


def test_the_hosts_script_samples_students_and_teachers(
    lab: Lab, student: Path, official: Path, tmp_path: Path
) -> None:
    hybrid = ["sampler=hybrid", f"sampler.teacher={lab.teacher('sdtt')}", "sampler.steps=3"]
    begin = [f"{k}={v}" for k, v in {"prefix_len": 5, "num_cont_per_prefix": 2}.items()]
    begin += [f"min_seq_len={LENGTH}", f"dataset={prefixes(lab, tmp_path / 'prefixes')}"]
    begin = [f"parameterization.sampling.cond_prefix.{option}" for option in begin]
    begin += ["sampler=di4c", "loader.num_workers=1"]
    first, _, mixed, product, released, _ = together(
        lambda: sample(lab, tmp_path / "0", student, "sampler=di4c"),
        lambda: sample(lab, tmp_path / "1", student, "sampler=di4c"),
        lambda: sample(lab, tmp_path / "2", student, *hybrid, "sampler.prefix='de '"),
        lambda: sample(lab, tmp_path / "3", lab.teacher("sdtt"), "sampler=ancestral"),
        lambda: sample(lab, tmp_path / "4", official, "sampler=di4c", "sampler.steps=1"),
        lambda: sample(lab, tmp_path / "5", student, *begin, kind="cond_prefix"),
    )
    assert [report[:3] for report in first.reports] == [(2, "di4c", 4)] * 2
    assert 0 < first.reports[0][3] < 3
    x = written(tmp_path / "0")["samples"]
    assert x.shape == (4, LENGTH)
    assert (x == written(tmp_path / "1")["samples"]).all()
    assert mixed.reports[0][1:3] == ("hybrid", 3)
    assert len({tuple(row[:3]) for row in written(tmp_path / "2")["samples"]}) == 1
    (file,) = (tmp_path / "2/samples").rglob("*.npz")
    assert "ancestral" not in file.name
    named = written(tmp_path / "2")["metadata"].item()
    assert (named["sampler"], named["num_steps"]) == ("hybrid", 3)
    assert product.reports[0][1:3] == ("ancestral", 4)
    assert released.reports[0][1:3] == ("di4c", 1)
    continued = written(tmp_path / "5")
    assert continued["samples"].shape == (8, LENGTH)
    # Two prefixes at a time, each batch twice.
    given = continued["references"][:, :5][[0, 1, 0, 1, 2, 3, 2, 3]]
    assert (continued["samples"][:, :5] == given).all()


def test_teachers_go_on_in_either_host(
    lab: Lab, student: Path, official: Path, tmp_path: Path
) -> None:
    """A distilled teacher of SDTT in MDLM; students as teachers (di4c squared) in both."""
    sources = {"round": lab.teacher("sdtt"), "student": student, "official": official}
    jobs = [("mdlm", "round"), ("sdtt", "student"), ("mdlm", "official")]

    def go_on(host: str, name: str) -> Done:
        out = tmp_path / f"{host}_{name}"
        distil = [*SHORT, f"teacher={sources[name]}", traced(out)]
        if host == "mdlm":
            return lab.run(host, *distil, out=out)
        # Where the host is installed and its packages can be imported, `di4c run` is not needed.
        source = lab.host(host) / "src"
        paths = lab.stand_ins("flash_attn", "timm", source)
        return lab.run(host, *distil, out=out, program=(sys.executable,), PYTHONPATH=paths)

    together(*(partial(go_on, *job) for job in jobs))
    for host, name in jobs:
        folder = tmp_path / f"{host}_{name}"
        assert [line["step"] for line in trace.read(folder / "trace")] == [1, 2]
        again = load_student(folder / "checkpoints/last.ckpt")
        assert again.info["teacher"]["source"] == str(sources[name])
        assert again.network == load_student(student).network


def test_two_processes(lab: Lab, tmp_path: Path) -> None:
    """They differ in data and draws, and go on exactly after one is killed."""
    distil = [*DISTIL, "trainer.devices=2", f"teacher={lab.teacher('sdtt')}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lab.run("sdtt", *distil, traced(whole), out=whole)
    check_ranks(whole)
    kill = traced(broken, kill_at=5, kill_rank=1)
    check_lost_peer(lab.run("sdtt", *distil, kill, out=broken, code=None), broken, killed=1, at=5)
    lab.run("sdtt", *distil, kill, out=broken)
    check_continued(whole, broken, ranks=2, at=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


def test_mistakes(lab: Lab, tmp_path: Path) -> None:
    def mistake(out: str, *overrides: str) -> Done:
        return lab.run("sdtt", *overrides, out=tmp_path / out, code=None)

    teacher = lab.teacher("sdtt")
    nowhere, sampler, kind, foreign, missing = together(
        lambda: mistake("0", "algo=di4c", f"teacher={tmp_path}/no.ckpt"),
        lambda: mistake("1", "mode=sample", "sampler=ancestrall"),
        lambda: mistake("2", "algo=di4c", f"teacher={teacher}", "parameterization.name=ar"),
        lambda: mistake(str(teacher.parents[1]), "algo=di4c", f"teacher={teacher}"),
        lambda: mistake("4", "mode=sample", "sampler=di4c"),
    )
    for done, start in (
        (nowhere, f"no such model file: teacher={tmp_path}/no.ckpt"),
        (kind, "parameterization=ar: only masked diffusion has a student"),
        (foreign, "the checkpoint to resume from was not written by this algo"),
        (missing, "no such file: checkpointing.resume_ckpt_path="),
    ):
        assert len(done.errors) == 1, done.err[-2000:]
        assert done.errors[0].startswith(start)
        assert done.code == 2
        assert "Traceback" not in done.err + done.out
    assert sampler.code == 1
    assert "Available options in 'sampler'" in sampler.err
    assert "Traceback" not in sampler.err
