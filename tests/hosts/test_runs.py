"""`di4c train host=…` in processes of its own: killed and resumed, and several of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from di4c_plugin import load_teacher
from di4c_plugin.checkpoints.model import bare_names
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.place import Place, options

CASES = [
    ("stand-in", "maskgit"),
    *(
        pytest.param("real", host, marks=pytest.mark.host)
        for host in ("maskgit", "halton_maskgit", "tauldr")
    ),
]
each_host = pytest.mark.parametrize(("root", "host"), CASES, indirect=["root"])


def start(
    place: Place, out: str, *more: str, method: str = "di4c", plugins: str = ""
) -> "subprocess.Popen[str]":
    """Start `di4c train` for 30 updates that write a checkpoint each."""
    program = str(Path(sys.executable).with_name("di4c"))
    length = ["training.steps=30", "training.checkpoint_every=1", "training.batch_size=2"]
    arguments = place.arguments(f"out={place.folder / out}", *length, *more)
    if method != "di4c":
        own = ("algo.", "latent")
        arguments = [f"algo={method}", *(a for a in arguments if not a.startswith(own))]
        arguments.insert(0, arguments.pop(arguments.index("train")))
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), plugins]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [program, *arguments],
        env=environment,
        cwd=place.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == 0, printed[-2000:]
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("method", ["di4c", "dmmd", "mutual"])
@each_host
def test_killed_and_resumed(
    root: Root, host: str, method: str, example_plugin: str, tmp_path: Path
) -> None:
    """Di4C, D-MMD, and the example plugin's method of two networks, which are trained in turn."""
    place = Place(host, root(host), tmp_path)
    asked = {"method": method, "plugins": example_plugin}
    whole = start(place, "whole", **asked)
    killed = start(place, "killed", **asked)
    checkpoint = place.folder / "killed" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (place.folder / "killed" / "student.safetensors").exists()
    finish(whole)
    update = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 1 <= update < 30
    finish(start(place, "killed", "resume=true", **asked))
    one, other = (
        load_file(place.folder / out / "student.safetensors") for out in ("whole", "killed")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["di4c", "dmmd", "mutual"])
@each_host
def test_two_processes(
    root: Root, host: str, method: str, example_plugin: str, tmp_path: Path
) -> None:
    place = Place(host, root(host), tmp_path)
    two = ("training.devices=2", "training.accelerator=cpu", "training.steps=4")
    printed = finish(start(place, "two", *two, method=method, plugins=example_plugin))
    assert printed.rstrip().endswith("student.safetensors")
    student = load_file(place.folder / "two" / "student.safetensors")
    assert all(value.isfinite().all() for value in student.values())
    teacher = bare_names(load_teacher(place.teacher, host=options(place)))
    changed = [name for name, value in teacher.items() if not torch.equal(student[name], value)]
    assert len(changed) > len(teacher) / 2
