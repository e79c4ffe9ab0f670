from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from di4c_plugin import load_teacher, sample
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.samplers import sampler_options

SIZES: dict[str, Any] = {"grid": (2, 2), "patch": (1, 2), "hidden_size": 8}
SIZES |= {"embedding_size": 4, "num_heads": 2}


def test_options_that_a_sampler_takes_are_fine() -> None:
    said = {"latents": "fixed", "last_latents": 2}
    assert sampler_options("ancestral", said) == said
    assert sampler_options("hybrid", {"teacher_steps": 1.0}, later=["teacher"]) == {
        "teacher_steps": 1
    }


def test_foreign_and_missing_options_are_named() -> None:
    with pytest.raises(UserError, match="^sampler 'ancestral': .*'speed'; it takes .*latents"):
        sampler_options("ancestral", {"speed": 2})
    with pytest.raises(UserError, match="^sampler 'hybrid': missing .*'teacher'"):
        sampler_options("hybrid", {"teacher_steps": 1})
    with pytest.raises(UserError, match="^sampler 'ancestral': .*'teacher'.*; it takes "):
        sampler_options("ancestral", {}, later=["teacher"])


def test_values_of_another_type_are_refused_and_whole_numbers_are_whole() -> None:
    for options, message in (
        ({"guidance": "abc"}, "guidance must be a number, not 'abc'"),
        ({"last_latents": True}, "last_latents must be a whole number, not True"),
        ({"guidance": float("nan")}, "guidance must be a finite number, not nan"),
        ({"guidance_teacher": 3}, "guidance_teacher must be a Denoiser, not 3"),
    ):
        with pytest.raises(UserError, match=f"^sampler 'ancestral': {message}$"):
            sampler_options("ancestral", options)
    assert type(sampler_options("ancestral", {"last_latents": 2.0})["last_latents"]) is int


def test_a_misspelt_policy_is_told_before_anything_is_drawn() -> None:
    with pytest.raises(UserError, match="^unknown latent policy 'fxed'; there are fixed, fresh"):
        sampler_options("ancestral", {"latents": "fxed"})


def test_what_a_file_asks_of_a_sampler_is_checked_and_named(tmp_path: Path) -> None:
    """Its numbers before anything is drawn; what every sampler is given is never the file's."""
    path = tmp_path / "x.safetensors"
    model = new_model(TransformerConfig(3, 4, **SIZES), Absorbing(3))
    for own, message in (
        ({"last_latents": 10**9}, r"x.safetensors is damaged: sampling.last_latents is 1000000000"),
        ({"steps": 10**6}, r"x.safetensors is damaged: sampling.steps is 1000000: it is above"),
        ({"guidance": 10**5}, r"x.safetensors is damaged: sampling.guidance is 100000: it is"),
        ({"latents": 5}, r"x.safetensors is damaged: sampling.latents is 5: no name"),
        ({"latents": "x"}, r"how .*x.safetensors asks to be sampled: unknown latent policy 'x'"),
        ({"guidance": "x"}, r"how .*x.safetensors asks to be sampled: .*guidance must be a number"),
        ({"sampler": "no"}, r"how .*x.safetensors asks to be sampled: unknown sampler 'no'"),
    ):
        replace(model, sampling=own).save(path)
        with pytest.raises(UserError, match=message):
            sample(load_teacher(path), 1)
    replace(model, sampling={"cond": [1], "callback": 3, "process": 2, "steps": 2}).save(path)
    expected = sample(model, 3, steps=2)
    assert torch.equal(sample(load_teacher(path), 3), expected)
    replace(model, sampling={"sampler": "of_a_plugin"}).save(path)
    assert torch.equal(sample(load_teacher(path), 3, steps=2, sampler="ancestral"), expected)
