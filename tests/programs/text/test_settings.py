from typing import Any

import pytest

from di4c_plugin.algorithms.base import Role
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.programs.text.settings import algo_options, distillation

CONFIG: dict[str, Any] = {"algo": {"name": "di4c", "latents": 3}, "teacher": "x.ckpt"}


def test_what_is_not_said_has_a_default() -> None:
    settings = distillation(CONFIG)
    assert settings.algo == {"name": "di4c", "latents": 3}
    assert settings.latent is None
    assert (settings.teacher, settings.teacher_ema, settings.rounds) == ("x.ckpt", True, None)


def test_a_latent_is_for_the_networks_that_take_one() -> None:
    chosen = distillation(CONFIG | {"latent": {"name": "adaln"}})
    want = {"none": None, "optional": {"name": "adaln"}, "required": {"name": "adaln"}}
    assert {kind: chosen.latent_of(Role(latent=kind)) for kind in want} == want
    want |= {"optional": None, "required": {"name": "token"}}
    assert {kind: distillation(CONFIG).latent_of(Role(latent=kind)) for kind in want} == want


def test_the_users_teacher_comes_before_the_hosts() -> None:
    assert distillation(CONFIG, fallback="host.ckpt").teacher == "x.ckpt"
    assert distillation(CONFIG | {"teacher": None}, fallback="host.ckpt").teacher == "host.ckpt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algo": "di4c"}, "Hydra did not find the algo group: algo is 'di4c'"),
        ({"algo": None}, "by itself is for evaluation"),
        ({"teacher": None}, "add teacher=PATH"),
        ({"teacher": ""}, "add teacher=PATH"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"rounds": 1.5}, "rounds must be a whole number, not 1.5"),
        ({"rounds": True}, "rounds must be a whole number, not True"),
        ({"rounds": [2]}, r"rounds must be a whole number, not \[2\]"),
        ({"latent": 3}, "latent must be a mapping of options, not 3"),
        ({"teacher_ema": "x"}, "teacher_ema must be true or false, not 'x'"),
        ({"algo": {"name": "denoising"}}, "algo=denoising trains teachers"),
        ({"algo": {"name": "di4d"}}, "'di4d' .*di4c"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^[^\n]*{message}[^\n]*$"):
        distillation(CONFIG | change)


def test_a_method_may_stand_beside_a_name_of_the_host() -> None:
    algo = {"name": "distillation", "method": "di4c"}
    options = algo_options(algo | {"latents": 4, "delta_t": [0.1, 0.2], "weights": {"distil": 0}})
    assert options == {
        "name": "di4c",
        "latents": 4,
        "delta_t": (0.1, 0.2),
        "weights": {"distil": 0},
    }
    assert isinstance(distillation(CONFIG | {"algo": algo}).make(Absorbing(3)), Di4C)


def test_an_option_that_nobody_knows_is_told() -> None:
    settings = distillation(CONFIG | {"algo": {"name": "di4c", "lattents": 3}})
    with pytest.raises(UserError, match="'lattents'.*it takes latents, "):
        settings.make(Absorbing(3))
