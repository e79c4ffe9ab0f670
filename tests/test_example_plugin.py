"""The example plugin, installed, does what its files say."""

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from di4c_plugin import plugins
from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.diffusion import Absorbing, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.plugins import BUILTINS, GROUP, PluginManager
from di4c_plugin.programs.text.sampling import sampler_settings
from di4c_plugin.samplers import sampler_named
from di4c_plugin.samplers.batch import draw_batch
from tests.conftest import Run
from tests.enumeration import TableDenoiser, assert_drawn_from, product_law, rank
from tests.test_configs import HOSTS, in_host


@pytest.fixture
def manager(example_plugin: str, monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    monkeypatch.syspath_prepend(example_plugin)
    return PluginManager(metadata.entry_points(group=GROUP, name="di4c_example"))


@pytest.fixture
def toy(manager: PluginManager) -> ModuleType:
    return importlib.import_module(manager.lookup("host", "two_bits").data.__module__)


@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.5), (2, 0.0)])
def test_one_step_of_the_exact_teacher_breaks_the_pair(
    manager: PluginManager, toy: ModuleType, steps: int, wrong: float
) -> None:
    sampler = manager.lookup("sampler", "confidence")
    generator = torch.Generator().manual_seed(0)
    x = toy.PROCESS.prior((4000, 2), generator=generator, device=torch.device("cpu"))
    x = sampler(toy.exact_teacher, x, time_grid(steps), process=toy.PROCESS, generator=generator)
    assert (x[:, 0] != x[:, 1]).double().mean() == pytest.approx(wrong, abs=0.03)


# A student that always says 1/2 pays log 2 for each masked bit whose twin is known; there are
# 2 E[t (1 - t)] = 0.3483 of these, t uniform in [0.05, 1].
@pytest.mark.parametrize(("sharpness", "loss"), [(1.0, 0.0), (0.0, 0.3483 * math.log(2))])
def test_the_marginal_loss_vanishes_only_at_the_teacher(
    manager: PluginManager, toy: ModuleType, sharpness: float, loss: float
) -> None:
    def student(
        x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        return torch.log_softmax(sharpness * toy.exact_teacher(x_t, t, cond=cond), -1)

    x_0 = toy.HOST().data().x_0.repeat(16, 1)
    losses = manager.lookup("algorithm", "marginal")(toy.PROCESS).losses(
        Batch(x_0),
        {"student": student, "teacher": toy.exact_teacher},
        Update(torch.Generator().manual_seed(0)),
    )
    assert losses.total.item() == pytest.approx(loss, abs=0.02)


def test_its_host_makes_networks_and_pictures(manager: PluginManager, tmp_path: Path) -> None:
    host = manager.lookup("host", "two_bits")()
    x = host.data().x_0
    teacher = host.new_teacher({"name": "absorbing"}, num_blocks=1, patch=(2, 2))
    log_p_0 = teacher.denoiser(x, torch.ones(len(x), dtype=torch.float64))
    assert log_p_0.shape == (256, 2, 2)
    host.picture(x, tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 0


def test_its_host_has_one_process(manager: PluginManager) -> None:
    with pytest.raises(UserError, match="^host 'two_bits' is for process 'absorbing', not 'unif"):
        manager.lookup("host", "two_bits")().new_teacher({"name": "uniform"})


def test_its_configs_are_found(manager: PluginManager) -> None:
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        path = f"hydra.searchpath={manager.config_paths()}"
        config = compose(overrides=[path, "+algo=marginal", "+host=two_bits"])
    assert (config.algo.name, config.host.name) == ("marginal", "two_bits")


@pytest.mark.parametrize("host", HOSTS)
def test_its_sampler_draws_from_a_student_in_a_host(
    manager: PluginManager, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = metadata.entry_points(group=GROUP, name="di4c_example")
    every = PluginManager([BUILTINS, *example])
    monkeypatch.setattr(plugins, "get_manager", lambda: every)
    settings = sampler_settings(in_host(tmp_path, host, "sampler=confidence")["sampler"])
    student, generator = TableDenoiser(Absorbing(2), 2, 3), torch.Generator().manual_seed(0)
    draw, shape = sampler_named(settings.name), (20_000, 2)
    x = draw_batch(draw, student, shape, time_grid(1), student.process, generator)
    assert_drawn_from(rank(x, 2), product_law(student.table(1.0)[:, -1]).mean(0))


@pytest.fixture(scope="module")
def run(
    di4c: Run, example_plugin: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Run `di4c` with the plugin installed, in a folder with its teacher and student."""
    folder = tmp_path_factory.mktemp("runs")

    def run(*arguments: str) -> str:
        arguments = tuple(argument.replace("RUNS", str(folder)) for argument in arguments)
        done = di4c(*arguments, PYTHONPATH=example_plugin)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    small = ["network.hidden_size=16", "network.num_blocks=1", "network.num_heads=2"]
    made = run("train-teacher", "host=two_bits", *small, "training.steps=300", "out=RUNS/teacher")
    marginal = ["host=two_bits", "algo=marginal", f"teacher={made}", "training.steps=20"]
    run("train", *marginal, "out=RUNS/student")
    return run


@pytest.mark.slow
@pytest.mark.parametrize("model", ["teacher", "student"])
@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.5), (2, 0.0)])
def test_its_host_algorithm_and_sampler_work_together_on_the_command_line(
    run: Callable[..., str], model: str, steps: int, wrong: float
) -> None:
    toy = ["--host", "two_bits", "--sampler", "confidence"]
    options = [*toy, "--n", "4000", "--steps", str(steps), "--out", f"RUNS/{model}{steps}.npy"]
    x = np.load(run("sample", f"RUNS/{model}/{model}.safetensors", *options))
    assert np.mean(x[:, 0] != x[:, 1]) == pytest.approx(wrong, abs=0.04)
    # Not 1/2: of two draws the surer one is kept, so the slightest preference decides many pairs.
    assert 0.2 < x.mean() < 0.8


@pytest.mark.slow
def test_its_latent_lets_one_step_draw_pairs_and_its_metric_says_so(
    run: Callable[..., str],
) -> None:
    teacher = "RUNS/teacher/teacher.safetensors"
    student = run("train", "experiment=two_bits", f"teacher={teacher}", "out=RUNS/shifted")
    measured = ["--host", "two_bits", "--metric", "unequal", "--steps", "1", "--samples", "2000"]
    lines = run("evaluate", teacher, student, *measured).splitlines()
    wrong = [float(line.split("\t")[2]) for line in lines if "safetensors" in line]
    assert wrong[0] == pytest.approx(0.5, abs=0.04)
    assert wrong[1] < 0.1


@pytest.mark.slow
def test_its_picture_is_drawn_on_the_command_line(run: Callable[..., str]) -> None:
    student = "RUNS/student/student.safetensors"
    picture = run("sample", student, "--host", "two_bits", "--out", "RUNS/x.png")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def program(
    tmp_path: Path, example_plugin: str
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the toy's own program by `di4c run`: it prints the share of unequal pairs."""
    (tmp_path / "pairs.py").write_text("def sample(count, steps):\n    return [[0, 1]] * count\n")
    (tmp_path / "main.py").write_text(
        "import sys, pairs\nx = pairs.sample(4000, steps=2)\n"
        "print(sum(a != b for a, b in x) / len(x), sys.argv[1:])\n"
    )
    path = os.pathsep.join([example_plugin, os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        script = str(tmp_path / "main.py")
        command = [sys.executable, "-m", "di4c_plugin.programs.launch", script]
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, env=environment
        )

    return run


@pytest.mark.slow
def test_its_program_is_entered_by_the_door_of_ours(program: Callable[..., Any]) -> None:
    assert program("-v").stdout == "1.0 ['-v']\n", "its own sampler"
    done = program("-v", "--sampler", "confidence")
    assert done.stdout == "0.0 ['-v']\n", done.stderr
    assert "sampler confidence: the host's network, 2 steps, process absorbing" in done.stderr
    done = program("--sampler=confidence", "--sampler-option", "steps=1")
    assert float(done.stdout.split()[0]) == pytest.approx(0.5, abs=0.05)
    done = program("--sampler", "confidense")
    assert done.returncode == 2
    assert "error: unknown sampler 'confidense' (did you mean 'confidence'?)" in done.stderr


@pytest.mark.slow
def test_its_program_takes_a_student(program: Callable[..., Any], run: Callable[..., str]) -> None:
    out = Path(run("sample", "RUNS/student/student.safetensors", "--n", "1", "--out", "RUNS/x.npy"))
    student, teacher = (
        out.parent / name / f"{name}.safetensors" for name in ("student", "teacher")
    )
    done = program("--sampler", "confidence", "--student", str(student))
    assert float(done.stdout.split()[0]) < 0.1, done.stderr
    done = program("--student", str(teacher))
    assert "is a teacher, not a student" in done.stderr
