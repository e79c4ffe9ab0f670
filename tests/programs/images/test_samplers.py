"""Our samplers, and Di4C's loss, inside the unmodified programs of the real image hosts."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from di4c_plugin import load_student
from di4c_plugin.plugins import lookup
from tests.programs.images.test_hosts import run
from tests.stand_ins import image_hosts, image_laws, real

pytestmark = [pytest.mark.host, pytest.mark.slow]
STUDENT = "student.safetensors"
# tauLDR's train.py by our loss, and sample.py until one batch has been written.
DISTIL = """
_teacher = get_config

def get_config():
    import ml_collections
    c = _teacher()
    c.experiment_name = "student"
    c.loss.name = c.training.train_step_name = "Di4C"
    c.loss.teacher = "{teacher}"
    c.loss.options = ml_collections.ConfigDict({{"latents": 2, "states": 3}})
    c.training.n_iters = 3
    c.saving.enable_preemption_recovery = c.saving.prepare_to_resume_after_timeout = True
    c.saving.preemption_start_day_YYYYhyphenMMhyphenDD = "{day}"
    return c
"""
EVAL = """
import runpy

def get_config():
    from PIL import Image
    save, written = Image.Image.save, []

    def save_fifty(self, *args):
        if len(written) == 50:
            raise SystemExit(0)  # the program would go on to 50000 samples
        written.append(args)
        save(self, *args)

    Image.Image.save = save_fifty
    c = runpy.run_path("{root}/config/eval/cifar10.py")["get_config"]()
    c.device, c.train_config_path, c.checkpoint_path = "cpu", "{config}", "{checkpoint}"
    c.data.S, c.data.shape = 17, [3, 32, 32]
    c.sampler.name, c.sampler.num_steps = "{name}", 2
    return c
"""


def told(done: real.Done) -> list[str]:
    """What we said of samplers and losses."""
    return re.findall(r"di4c: ((?:sampler|loss) .*)", done.err)


def write_student(host: str, teacher: Path, out: Path) -> None:
    """A student that starts near a teacher of the host's own."""
    adapter = lookup("host", host)(heads=2, **({"codes": 17} if host == "maskgit" else {}))
    model = adapter.load_teacher(teacher)
    adapter.build_student(model, {"name": "token"}).save(out)


@pytest.mark.parametrize("host_checkout", ["maskgit"], indirect=True)
def test_maskgit(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_pictures(tmp_path / "data")
    image_hosts.write_features(tmp_path / "features")
    image_hosts.write_maskgit(tmp_path)
    sizes = "--img-size 8 --mask-value 17 --bsize 10 --num_workers 0 --warm_up 2 --cfg_w 2"
    places = "--data-folder data --vqgan-folder vq --vit-folder vit/"

    def program(*more: object) -> real.Done:
        arguments = [*sizes.split(), *places.split(), *more]
        return run(
            host_checkout / "main.py", *arguments, cwd=tmp_path, paths=(tmp_path / "features",)
        )

    trained = program("--epoch", 1, "--step", 3, "--sampler", "di4c")
    start = "process confidence schedule=arccos temperature=4.5"
    (line,) = told(trained)  # it draws while it trains
    assert line == f"sampler di4c: the host's network, 3 steps, {start}, guidance=2.0, " + (
        "guidance_ramp=linear"
    )
    write_student("maskgit", tmp_path / "vit/epoch_000.pth", tmp_path / STUDENT)
    test = ("--resume", "--test-only", "--step", 1)
    for flags, line in (
        (("--sampler", "maskgit"), "sampler maskgit: the host's network, 1 steps, "),
        (("--student", STUDENT), f"sampler ancestral: {STUDENT}, 1 steps, "),
        (
            ("--sampler", "halton", "--student", STUDENT, "--sampler-option", "latents=fixed"),
            f"sampler halton: {STUDENT}, 1 steps, ",
        ),
    ):
        done = program(*test, *flags)
        assert [text.startswith(line) for text in told(done)] == [True]
        score = re.search(r"'Eval/fid_conditional': ([\d.]+)", done.out)
        assert score is not None
        assert np.isfinite(float(score[1]))
    program("--resume", "--debug", "--sampler", "hybrid", "--student", STUDENT, *TEACHER_STEPS)
    (picture,) = (tmp_path / "saved_img").iterdir()
    assert np.asarray(Image.open(picture)).std() > 0


TEACHER_STEPS = ("--sampler-option", "teacher_steps=8")


@pytest.mark.parametrize("host_checkout", ["halton_maskgit"], indirect=True)
def test_halton_maskgit(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_codes(tmp_path / "codes")
    image_hosts.write_pictures(tmp_path / "pictures")
    image_hosts.write_features(tmp_path / "features")
    torch.save({"model": {}}, tmp_path / "vq.pt")
    sizes = "--img-size 8 --f-factor 1 --codebook-size 17 --mask-value 17 --global-bsize 10"
    places = "--data imagenet_feat --data-folder codes/ --eval-folder pictures/"
    rest = "--vqgan-folder vq.pt --vit-folder vit/ --writer-log log --num-workers 0 --max-iter 6"

    def program(*more: object) -> real.Done:
        arguments = [*sizes.split(), *places.split(), *rest.split(), *more]
        done = run(
            host_checkout / "main.py", *arguments, cwd=tmp_path, paths=(tmp_path / "features",)
        )
        score = re.search(r"'FID': ([\d.]+)", done.out)
        assert score is not None
        assert np.isfinite(float(score[1]))
        return done

    trained = program("--use-ema", "--step", 2, "--sampler", "di4c")
    assert "Scheduler: di4c di4c, Steps: 2, of the host's network" in trained.out
    assert len(told(trained)) == 1
    for name in ("", "_ema"):
        target = tmp_path / "vit" / (name.strip("_") or "current")
        shutil.copy(tmp_path / f"vit/last{name}.pth", target.with_suffix(".pth"))
    write_student("halton_maskgit", tmp_path / "vit/last_ema.pth", tmp_path / STUDENT)
    test = ("--resume", "--test-only", "--use-ema", "--cfg-w", 1.5, "--student", STUDENT)
    done = program(*test, "--sampler", "halton", "--randomize", "--step", 4)
    assert told(done) == [
        f"sampler halton: {STUDENT}, 4 steps, process confidence schedule=arccos temperature=4.5, "
        "guidance=1.5, guidance_ramp=constant, randomize=True"
    ]
    done = program(*test, "--r-temp", 2.0, "--step", 1)
    assert f"Scheduler: di4c ancestral, Steps: 1, of {STUDENT}" in done.out
    assert "temperature=2.0, guidance=1.5" in told(done)[0]


@pytest.mark.parametrize("host_checkout", ["tauldr"], indirect=True)
def test_tauldr(host_checkout: Path, tmp_path: Path) -> None:
    image_hosts.write_tauldr(tmp_path, host_checkout, [3, 32, 32])
    paths, train = (tmp_path, host_checkout), host_checkout / "train.py"
    run(train, "cifar10", cwd=tmp_path, paths=paths)
    (teacher,) = tmp_path.glob("*/*_cifar10/checkpoints/ckpt_0000000003.pt")
    text = (tmp_path / "config/train/cifar10.py").read_text()
    distil = text + DISTIL.format(teacher=teacher, day=teacher.parents[2].name)
    image_hosts.write_config(tmp_path, "train", distil)
    done = run(train, "cifar10", cwd=tmp_path, paths=paths)
    assert told(done)[0].startswith(f"loss Di4C: teacher {teacher}, ")
    (student,) = tmp_path.glob("*/*_student/checkpoints/ckpt_0000000002.pt")
    assert load_student(student).sample(2, steps=1).shape == (2, 3072)
    again = run(train, "cifar10", cwd=tmp_path, paths=paths)  # the same run goes on
    assert "found preempted run" in again.out
    assert len(list(tmp_path.glob("*/*_student"))) == 1

    def sampled(checkpoint: Path, name: str, *flags: str) -> list[str]:
        out, config = tmp_path / "path/to/tauLDR_samples", checkpoint.parents[1]
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        values = {"root": host_checkout, "config": config / "config/config_001.yaml", "name": name}
        image_hosts.write_config(tmp_path, "eval", EVAL.format(checkpoint=checkpoint, **values))
        done = run(host_checkout / "scripts/sample.py", *flags, cwd=tmp_path, paths=paths)
        pictures = [np.asarray(Image.open(path)) for path in out.glob("*.png")]
        assert len(pictures) == 50
        assert max(int(picture.max()) for picture in pictures) < 17
        return told(done)

    start = "2 steps, process gaussian, "
    own = "last=argmax, min_time=0.01"
    assert sampled(teacher, "Di4C") == [f"sampler ancestral: the host's network, {start}{own}"]
    assert sampled(student, "Di4C") == [f"sampler ancestral: the host's network, {start}{own}"]
    assert sampled(student, "TauLeaping") == []  # the host's own sampler, on the student
    correctors = "corrector_entry=0.1, corrector_size=1.5, corrector_steps=10"
    flags = ("--sampler", "tau_leaping", "--student", str(student))
    (line,) = sampled(teacher, "PCTauLeaping", *flags)
    assert line == f"sampler tau_leaping: {student}, {start}{correctors}, {own}"


@pytest.mark.parametrize(
    ("host_checkout", "compare"),
    [("maskgit", image_laws.maskgit), ("halton_maskgit", image_laws.halton)],
    indirect=["host_checkout"],
)
def test_our_samplers_have_the_law_of_the_hosts(
    host_checkout: Path, repository: Path, compare: Callable[[Path], None]
) -> None:
    """In a process of its own: the hosts' modules have names that others have too."""
    code = (
        f"from tests.stand_ins import image_laws; image_laws.{compare.__name__}('{host_checkout}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    deviations = dict(re.findall(r"(\S+) ([\d.]+)", done.stdout))
    assert len(deviations) >= 2
    assert {name: v for name, v in deviations.items() if not float(v) < 5.5} == {}
