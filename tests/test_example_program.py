"""The example plugin's program with Hydra: entered by what the plugin registers, nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import load_student
from di4c_plugin.checkouts import find, host_of_configs
from di4c_plugin.plugins import BUILTINS, GROUP, PluginManager
from di4c_plugin.programs import checkup

Start = Callable[..., "subprocess.CompletedProcess[str]"]
RUN = ("-m", "di4c_plugin.programs.launch")  # `di4c run`
LAST = "checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def program(repository: Path) -> Path:
    return repository / "tests/example_plugin/letters"


@pytest.fixture(scope="module")
def start(
    program: Path, example_plugin: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """Start main.py, by Python or by `di4c run`, in a folder of the module's runs."""
    folder = tmp_path_factory.mktemp("runs")

    def start(
        *words: str, by: tuple[str, ...] = RUN, out: str, code: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        path = [example_plugin, str(repository), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, *by, str(program / "main.py"), *words, f"hydra.run.dir={out}"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    vars(start).update(folder=folder, teacher=start("updates=2", out="teacher"))
    return start


def checkpoint(start: Start, run: str) -> Path:
    folder: Path = vars(start)["folder"]
    return folder / run / LAST


def test_it_is_known_by_its_registration(
    program: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(repository / "tests/example_plugin")
    entry = metadata.EntryPoint("di4c_example", "di4c_example.plugin", GROUP)
    manager = PluginManager([BUILTINS, entry])
    found = find(program / "main.py", manager.programs())
    assert found is not None
    assert found.host is manager.lookup("program", "letters")
    assert host_of_configs(str(program / "settings"), manager.programs()) is found.host
    monkeypatch.setattr(checkup, "installed_plugins", lambda broken: manager)
    (present, *_, remedy) = checkup.checkup(program, gpu=False)
    assert present[:2] == ("letters", "present")
    assert remedy == ("letters", "remedy", "no GPU: letters.ACCELERATOR is the CPU")


@pytest.mark.slow
def test_its_remedy_and_its_own_training(start: Start) -> None:
    told = vars(start)["teacher"].stderr
    assert "di4c: no GPU: the letters are learnt on the CPU" in told
    assert "di4c: letters at an unknown commit: no shims needed" in told
    failed = start("updates=1", by=(), out="bare", code=1)  # asks for the GPU
    assert "di4c" not in failed.stderr.replace("di4c_", "")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "by"), [("di4c", RUN), ("mutual", ())])
def test_methods_distil_its_teachers(method: str, by: tuple[str, ...], start: Start) -> None:
    options = {"di4c": ["algo.latents=2", "latent=token"], "mutual": ["algo.every=2"]}[method]
    words, out = [f"algo={method}", *options, f"teacher=teacher/{LAST}"], method
    start(*words, "updates=2", by=by, out=out)
    student = load_student(checkpoint(start, out))
    assert (student.latent or {}).get("name") == ("token" if method == "di4c" else None)
    assert student.sample(2, steps=2).shape == (2, 6)
    saved = torch.load(checkpoint(start, out), weights_only=True)
    assert saved["global_step"] == 2
    networks = {name.split(".")[1] for name in saved["state_dict"] if name.startswith("di4c_net")}
    assert networks == ({"peer"} if method == "mutual" else set())
    assert saved["di4c"]["settings"]["rate"] == "0.01"


@pytest.mark.slow
def test_a_recipe_of_texts_its_own_key_of_a_teacher_and_samples(start: Start) -> None:
    """`start_from` is a key of the program, which is typed relative to the folder of the user."""
    words = ["algo=dmmd", "algo.steps=2", f"start_from=teacher/{LAST}"]
    start(*words, "updates=2", out="dmmd")
    student = load_student(checkpoint(start, "dmmd"))
    assert student.latent == {"name": "mask_noise", "dim": 16, "std": 0.5} | (student.latent or {})
    words = ["task=draw", f"weights=dmmd/{LAST}", "sampler=confidence", "steps=3"]
    done = start(*words, out="drawn")
    assert re.fullmatch(r"([a-f]{6}\n){4}", done.stdout)
    assert "4 samples of 6 tokens: sampler confidence, 3 steps" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["algo=di4c"], "algo=di4c distils a teacher: add teacher=PATH"),
        (["task=draw", "sampler=di4c"], "there is nothing to evaluate: name the checkpoint"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, start: Start) -> None:
    done: Any = start(*words, out="mistake", code=2)
    assert f"di4c: error: {line}" in done.stderr
    assert "Traceback" not in done.stderr
