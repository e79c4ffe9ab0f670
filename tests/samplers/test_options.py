import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.samplers import sampler_options


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
