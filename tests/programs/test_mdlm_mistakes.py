"""What a user sees who made a mistake with `algo=di4c` or `sampler=…` in the real MDLM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from di4c_plugin import load_teacher
from tests.stand_ins.real import Done, Lab, together

pytestmark = [pytest.mark.host, pytest.mark.slow]


def mistake(lab: Lab, *overrides: str, out: Path) -> Done:
    return lab.run("mdlm", "trainer.max_steps=2", *overrides, out=out, code=None)


def error(done: Done) -> str:
    """The one line; nothing else may look like a crash."""
    assert done.code == 2, done.err[-2000:]
    assert "Traceback" not in done.err + done.out
    (line,) = done.errors
    return line


def other_vocabulary(lab: Lab, folder: Path) -> Path:
    """A teacher of the same sizes with ten more tokens."""
    weights = load_teacher(lab.teacher("mdlm")).denoiser.network.state_dict()
    for name in ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"):
        weights[name] = weights[name].new_zeros((110, *weights[name].shape[1:]))
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "mdlm", "vocab_size": 110, "model_length": 16, "n_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_teachers(lab: Lab, tmp_path: Path) -> None:
    teacher = f"teacher={lab.teacher('mdlm')}"
    foreign = other_vocabulary(lab, tmp_path / "foreign")
    none, nowhere, vocabulary, autoregressive, timed = together(
        lambda: mistake(lab, "algo=di4c", out=tmp_path / "0"),
        lambda: mistake(lab, "algo=di4c", f"teacher={tmp_path}/no.ckpt", out=tmp_path / "1"),
        lambda: mistake(lab, "algo=di4c", f"teacher={foreign}", out=tmp_path / "2"),
        lambda: mistake(lab, "algo=di4c", teacher, "parameterization=ar", out=tmp_path / "3"),
        lambda: mistake(lab, "algo=di4c", teacher, "time_conditioning=true", out=tmp_path / "4"),
    )
    assert error(none).startswith("algo=di4c distils a teacher: add teacher=PATH")
    assert error(nowhere) == f"no such model file: teacher={tmp_path}/no.ckpt"
    assert "has a vocabulary of 110 tokens, this run's tokenizer has 100" in error(vocabulary)
    assert error(autoregressive).endswith("(parameterization=subs) has a student")
    assert "was trained with time_conditioning=False" in error(timed)


def test_runs_that_cannot_be_resumed(lab: Lab, tmp_path: Path) -> None:
    """In a folder that holds a run of the host's own, and one that distilled something else."""
    teacher, out = lab.teacher("mdlm"), tmp_path / "out"
    mistake(lab, "algo=di4c", f"teacher={teacher}", out=out)
    earlier = teacher.with_name("best.ckpt")
    assert earlier.is_file()
    student = out / "checkpoints/last.ckpt"
    foreign, other = together(
        lambda: mistake(lab, "algo=di4c", f"teacher={teacher}", out=teacher.parents[1]),
        lambda: mistake(lab, "algo=di4c", f"teacher={student}", out=out),
    )
    assert "was not written by this algo" in error(foreign)
    assert "the run to resume distils another teacher" in error(other)


def test_misspelt_groups_and_evaluations(lab: Lab, tmp_path: Path) -> None:
    evaluate = ["mode=sample_eval", f"eval.checkpoint_path={lab.teacher('mdlm')}"]
    algo, sampler, alone, nothing = together(
        lambda: mistake(lab, "algo=di4d", out=tmp_path / "0"),
        lambda: mistake(lab, *evaluate, "sampler=ancestrall", out=tmp_path / "1"),
        lambda: mistake(lab, *evaluate, "sampler=hybrid", out=tmp_path / "2"),
        lambda: mistake(lab, "mode=sample_eval", "sampler=di4c", out=tmp_path / "3"),
    )
    for done, available in ((algo, "di4c"), (sampler, "ancestral")):
        assert done.code != 0
        assert "Traceback" not in done.err
        assert "Available options in " in done.err
        assert available in done.err
    assert error(alone) == "sampler=hybrid needs its teacher: add sampler.teacher=SOURCE"
    assert error(nothing) == "there is nothing to evaluate: name the checkpoint"


def test_other_hydra_programs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/config.yaml").write_text("seed: 1\n")
    (tmp_path / "main.py").write_text(
        "import hydra, sys\n"
        "@hydra.main(version_base=None, config_path='configs', config_name='config')\n"
        "def main(config):\n"
        "    print(sorted(config), 'torch' in sys.modules)\n"
        "main()\n"
    )

    def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "main.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert start().stdout == "['seed'] False\n"
    refused = start("algo=di4c")
    assert refused.returncode == 1
    assert "Could not override 'algo'" in refused.stderr
