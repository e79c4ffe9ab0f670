"""A run of adapters as the commands take it: measured, sampled, taught by, gone on from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("peft", reason="adapters are by peft")

from di4c_plugin import load_student
from di4c_plugin.bench.cases import UpdateCase
from di4c_plugin.bench.networks import make_update
from di4c_plugin.cli.main import main
from di4c_plugin.evaluation.entropy import entropies
from di4c_plugin.evaluation.texts import data_tokens, of_tokens
from di4c_plugin.networks.sharing import own_state
from tests.families.hf.snapshots import native
from tests.hosts.test_hf import texts
from tests.training import toy

SAMPLING = ["--steps", "2", "--n", "3", "--seed", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, texts, and `run`, whose adapter was trained."""
    folder = tmp_path_factory.mktemp("adapters")
    native("bert", folder / "teacher")
    texts(folder)
    assert main([*train(folder, "run"), "algo.latents=2", "training.lr=0.1"]) == 0
    return folder


def train(folder: Path, out: str, *, teacher: str = "teacher", adapter: bool = True) -> list[str]:
    command = ["train", "host=hf", f"teacher={folder / teacher}", f"out={folder / out}"]
    command += [f"host.data={folder / 'texts.jsonl'}", "training.steps=3", "training.batch_size=2"]
    return [*command, "training.adapter={r: 3}"] if adapter else command


def test_it_is_measured_beside_its_teacher(folder: Path, tmp_path: Path) -> None:
    names, file = [str(folder / "teacher"), str(folder / "run")], tmp_path / "report.json"
    options = ["--steps", "2", "--samples", "8", "--metric", "entropy", "--json", str(file)]
    assert main(["evaluate", *names, *options]) == 0
    report: dict[str, Any] = json.loads(file.read_text())
    assert [source["role"] for source in report["sources"]] == ["teacher", "student"]
    found = [point["figures"]["entropy"]["value"] for point in report["points"]]
    student = load_student(folder / "run")
    samples = of_tokens(student.sample(8, steps=2, seed=0), data_tokens(student.process), None)
    assert found[1] == pytest.approx(float(entropies(samples).mean()), rel=1e-6)
    assert abs(found[0] - found[1]) > 0.01


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(folder: Path, tmp_path: Path) -> None:
    options = ["--steps", "2", "--samples", "8", "--batch-size", "4", "--metric", "entropy"]
    found = []
    for processes in ("1", "2"):
        file = tmp_path / f"{processes}.json"
        own = ["--processes", processes, "--json", str(file)]
        assert main(["evaluate", str(folder / "run"), *options, *own]) == 0
        found.append(json.loads(file.read_text())["points"][0]["figures"]["entropy"]["value"])
    assert found[0] == found[1]


@pytest.mark.parametrize("sampler", ["ancestral", "hybrid"])
def test_it_is_sampled(folder: Path, sampler: str, tmp_path: Path) -> None:
    more = ["--teacher", str(folder / "teacher"), "--teacher-steps", "1"]
    more = ["--sampler", "hybrid", *more] if sampler == "hybrid" else []
    file = tmp_path / "x.npy"
    assert main(["sample", str(folder / "run"), *SAMPLING, *more, "--out", str(file)]) == 0
    x = torch.from_numpy(np.load(file)).long()
    alone = load_student(folder / "run").sample(3, steps=2, seed=4)
    assert torch.equal(x, alone) == (sampler == "ancestral")


def test_a_run_goes_on_from_it(folder: Path) -> None:
    command = [*train(folder, "second"), f"student={folder / 'run'}", "algo.latents=2"]
    assert main([*command, "training.lr=0"]) == 0
    first, second = (own_state(load_student(folder / n).denoiser) for n in ("run", "second"))
    assert toy.same(first, second)


def test_it_is_a_teacher(folder: Path) -> None:
    command = train(folder, "whole", teacher="run", adapter=False)
    assert main([*command, "algo.latents=2", "training.lr=0", "training.ema=0"]) == 0
    first = load_student(folder / "run")
    whole = load_student(folder / "whole" / "student.safetensors")
    assert first.latent == whole.latent
    assert first.denoiser.latent_shape is not None
    x, latent = torch.tensor([[5, 4, 4, 6]]), torch.rand(1, *first.denoiser.latent_shape)
    with torch.no_grad():
        one, other = (m.denoiser(x, torch.ones(1).double(), latent=latent) for m in (first, whole))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_its_updates_are_measured(folder: Path) -> None:
    case = UpdateCase(teacher=str(folder / "run"), batch=2, algo={"name": "dmmd", "steps": 2})
    update, tokens, _ = make_update(case)
    update()
    assert tokens == 2 * 24
