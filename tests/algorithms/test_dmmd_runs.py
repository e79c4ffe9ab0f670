"""Runs of D-MMD's two networks under our own loop: killed and resumed, kept with k."""

import functools
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.algorithms.dmmd import DMMD
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import load_model
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.run import train
from tests.algorithms.killed import goes_on_bit_for_bit
from tests.training import toy

CONFIG = TrainingConfig(steps=7, batch_size=3, checkpoint_every=2, log_every=1, logger="none")


def run(out: Path, *, resume: bool = False, **options: Any) -> Model:
    method = DMMD(Absorbing(3), steps=2, **options)
    others = {"auxiliary": toy.teacher()}
    start, teacher = toy.student("mask_noise"), toy.teacher()
    data = toy.data()
    return train(
        method, start, teacher, data, CONFIG, out, others=others, resume=resume, progress=False
    )


@pytest.mark.parametrize("options", [{}, {"together": True}, {"auxiliary_updates": 2}])
def test_a_killed_run_goes_on_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    goes_on_bit_for_bit(functools.partial(run, **options), tmp_path, "auxiliary")


def test_the_file_keeps_how_many_steps_it_is_for(tmp_path: Path) -> None:
    run(tmp_path)
    kept = load_model(tmp_path / "student.safetensors")
    assert kept.sampling == {"steps": 2, "latents": "fresh"}
