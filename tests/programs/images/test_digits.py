"""From a teacher that the host's own program trains to samples of its student, at tiny length."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Run
from tests.stand_ins import image_hosts, real

HOSTS = ["maskgit", "halton_maskgit", "tauldr"]


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize("host_checkout", HOSTS, indirect=True)
def test_teacher_student_samples(host_checkout: Path, tmp_path: Path, di4c: Run) -> None:
    host = host_checkout.name
    name = host.partition("_")[0]
    program = [
        sys.executable,
        "-m",
        "tests.stand_ins.image_digits",
        name,
        str(tmp_path / "teacher"),
    ]
    repository = Path(__file__).parents[3]
    done = real.run(
        [*program, "--updates", "3", "--batch", "600"], repository, {"PYTHONPATH": str(repository)}
    )
    assert done.code == 0, done.err[-3000:]
    told = done.out.strip().splitlines()[-1].split()
    x, labels = image_hosts.digits(60)
    if name == "tauldr":
        data = tmp_path / "levels.npy"
        np.save(data, x.flatten(1).numpy())
    else:
        data = tmp_path / "codes.npz"
        np.savez(data, codes=x.numpy(), labels=labels.numpy())
    student = tmp_path / "student"
    short = ["training.steps=2", "training.batch_size=4", "algo.latents=2"]
    trained = di4c("train", f"host={name}", f"host.data={data}", *told, *short, f"out={student}")
    assert trained.returncode == 0, trained.stderr[-2000:]
    report = tmp_path / "report.json"
    model = str(student / "student.safetensors")
    few = ["--samples", "20", "--steps", "2", "--json", str(report)]
    judged = di4c("evaluate", model, "--host-option", f"data={data}", *few)
    assert judged.returncode == 0, judged.stderr[-2000:]
    assert json.loads(report.read_text())["points"][0]["figures"]["fd"]["value"] > 0


def test_it_is_found_where_another_library_brings_tests(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()  # as torch-fidelity installs
    program = [sys.executable, "-m", "tests.stand_ins.image_digits", "--help"]
    done = real.run(program, Path(__file__).parents[3], {"PYTHONPATH": str(tmp_path)})
    assert done.code == 0, done.err[-3000:]
