import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.samplers import sampler_with


def test_options_that_a_sampler_takes_are_fine() -> None:
    sampler_with("ancestral", {"latents": "fixed", "last_latents": 2})
    sampler_with("hybrid", {"teacher": None, "teacher_steps": 1})


def test_foreign_and_missing_options_are_named() -> None:
    with pytest.raises(UserError, match="^sampler 'ancestral': .*'speed'$"):
        sampler_with("ancestral", {"speed": 2})
    with pytest.raises(UserError, match="^sampler 'hybrid': missing .*'teacher'"):
        sampler_with("hybrid", {"teacher_steps": 1})


def test_a_misspelt_policy_is_told_before_anything_is_drawn() -> None:
    with pytest.raises(UserError, match="^unknown latent policy 'fxed'; there are fixed, fresh"):
        sampler_with("ancestral", {"latents": "fxed"})
