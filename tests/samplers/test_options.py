import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.samplers import ancestral, hybrid
from di4c_plugin.samplers.options import check_options


def test_options_that_a_sampler_takes_are_fine() -> None:
    check_options(ancestral, "ancestral", {"latents": "fixed", "last_latents": 2})
    check_options(hybrid, "hybrid", {"teacher": None, "teacher_steps": 1})


def test_foreign_and_missing_options_are_named() -> None:
    with pytest.raises(UserError, match="^sampler 'ancestral': .*'speed'$"):
        check_options(ancestral, "ancestral", {"speed": 2})
    with pytest.raises(UserError, match="^sampler 'hybrid': missing .*'teacher'"):
        check_options(hybrid, "hybrid", {"teacher_steps": 1})


def test_a_misspelt_policy_is_told_before_anything_is_drawn() -> None:
    with pytest.raises(UserError, match="^unknown latent policy 'fxed'; there are fixed, fresh"):
        check_options(ancestral, "ancestral", {"latents": "fxed"})
