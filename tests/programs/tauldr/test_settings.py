"""`cfg.loss` of tauLDR's config."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from di4c_plugin.algorithms.base import Role
from di4c_plugin.errors import UserError
from di4c_plugin.families.unet_latent import let_latent_in
from di4c_plugin.plugins import lookup
from di4c_plugin.programs.tauldr.settings import LossSettings
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.trainers import GaussianModel


def settings(**loss: Any) -> LossSettings:
    return LossSettings.of(SimpleNamespace(loss={"name": "Di4C", "min_time": 0.01} | loss))


def test_what_is_not_said_has_a_default() -> None:
    assert settings(teacher="", latent=None, seed=None) == LossSettings()
    assert settings().options == {"name": "di4c"}
    assert settings(teacher="x.pt", rounds=2.0).teacher == Path("x.pt")
    assert settings(rounds=2.0).rounds == 2


def test_a_latent_that_nobody_names_is_the_hosts() -> None:
    name = lookup("host", "tauldr").latent
    said, unsaid = settings(latent={"std": 0.5}), settings()
    want = {"none": None, "optional": None, "required": {"name": name}}
    assert {kind: unsaid.latent_of(Role(latent=kind)) for kind in want} == want
    assert unsaid.own_latent is None
    chosen = {"name": name, "std": 0.5}
    want = {"none": None, "optional": chosen, "required": chosen}
    assert {kind: said.latent_of(Role(latent=kind)) for kind in want} == want
    assert said.own_latent == chosen
    assert settings(latent={"name": "x"}).own_latent == {"name": "x"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("options", [1], r"must be a mapping of options, not \[1\]"),
        ("options", 3, "must be a mapping of options, not 3"),
        ("options", "x", "must be a mapping of options, not 'x'"),
        ("options", {"name": 3}, "name must be text, not 3"),
        ("options", {"name": None}, "name must be text, not None"),
        ("options", {3: 4}, "must be text, not 3"),
        ("latent", 3, "must be a mapping of options, not 3"),
        ("latent", "x", "must be a mapping of options, not 'x'"),
        ("latent", [1], r"must be a mapping of options, not \[1\]"),
        ("teacher", 5, "must be a path, not 5"),
        ("student", [1], r"must be a path, not \[1\]"),
        ("rounds", "2", "must be a whole number, not '2'"),
        ("rounds", [2], r"must be a whole number, not \[2\]"),
        ("rounds", 1.5, "must be a whole number, not 1.5"),
        ("rounds", True, "must be a whole number, not True"),
        ("rounds", 0, "must be at least 1, not 0"),
        ("seed", "a", "must be a whole number, not 'a'"),
        ("seed", -1, "must be at least 0, not -1"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_in_one_line(
    option: str, value: Any, message: str
) -> None:
    with pytest.raises(UserError, match=rf"^cfg\.loss\.{option}[. ]{message}$"):
        settings(**{option: value})


def test_options_of_the_latent_have_types_too(root: Root) -> None:
    network = GaussianModel(root("tauldr")).net
    with pytest.raises(UserError, match="^latent 'unet': std must be a number, not 'x'$"):
        let_latent_in(network, {"name": "unet", "std": "x"})
