from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import host_for
from di4c_plugin.hosts.builtin import BuiltinHost
from di4c_plugin.hosts.grid import HaltonHost, MaskGITHost
from di4c_plugin.hosts.tauldr import TauLDRHost

SIZES = {
    "heads": 4,
    "classes": 10,
    "dropout": 0.5,
    "carry_over": True,
    "mirror": False,
    "image_size": 64,
    "process": {"name": "confidence", "schedule": "arccos", "temperature": 4.5},
}
PLACES = {name: f"there/{name}" for name in ("data", "root", "vqgan", "cache")}


def model_of(kind: str, **described: Any) -> Model:
    """A model as far as its description."""
    model = BuiltinHost().new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1)
    network = type("Network", (), {"kind": kind})()
    return replace(model, network=network, info=described)


def trained(**options: Any) -> Model:
    """A model of MaskGIT with these options of the training in its file."""
    return model_of("maskgit", host={"name": "maskgit"} | options)


@pytest.mark.parametrize("kind", ["transformer", "dit"])
def test_our_own_networks_have_the_built_in_host(kind: str) -> None:
    assert isinstance(host_for(model_of(kind)), BuiltinHost)


def test_sizes_of_the_training_are_kept_unless_others_are_given() -> None:
    host = host_for(trained(**SIZES), heads=2)
    assert isinstance(host, MaskGITHost)
    assert host.described()["host"] == dict.fromkeys(PLACES) | SIZES | {
        "name": "maskgit",
        "heads": 2,
    }
    named = host_for(trained(**SIZES), "maskgit")
    assert named.described() == host_for(trained(**SIZES)).described()


def test_no_place_is_taken_from_a_file() -> None:
    host = host_for(trained(**PLACES, trust=True), data="mine.npz")
    assert isinstance(host, MaskGITHost)
    found = host.described()["host"]
    assert {name: found[name] for name in PLACES} == dict.fromkeys(PLACES) | {"data": "mine.npz"}
    assert host.root is None
    described = {"name": "tauldr", "config": "x.yaml", "root": "x", "data": "x", "mirror": True}
    pixels = host_for(model_of("tauldr", host=described))
    assert isinstance(pixels, TauLDRHost)
    assert (pixels.config, pixels.root, pixels.path, pixels.mirror) == (None, None, None, True)


def test_a_host_that_declares_nothing_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    class Strange(BuiltinHost):
        def __init__(self, **options: Any) -> None:
            seen.append(options)

    monkeypatch.setattr("di4c_plugin.hosts.choose.lookup", lambda kind, name: Strange)
    monkeypatch.setattr("di4c_plugin.plugins.lookup", lambda kind, name: Strange)
    strange = model_of("transformer", host={"name": "strange", "trust": True, "size": 3})
    host_for(strange, size=4)
    Strange.kept = {"size": int}
    host_for(strange)
    assert seen == [{"size": 4}, {"size": 3}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": "4"},
        {"heads": True},
        {"heads": 1e300},
        {"heads": [4]},
        {"dropout": float("nan")},
        {"dropout": 10**400},
        {"mirror": 1},
        {"image_size": 64.5},
        {"process": "../x"},
        {"process": {"name": "/x"}},
        {"process": {"name": "halton", "grid": {"x": 1}}},
        {"process": ["halton"]},
        {"process": "x" * 100},
        {"process": "halton\x1b[31m\n"},
    ],
)
def test_other_values_are_refused_in_one_line(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"^the file of this model gives {name} of host") as caught:
        host_for(trained(**wrong))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    host_for(trained(**wrong), **{name: None})


@pytest.mark.parametrize("described", ["maskgit", ["maskgit"], {"name": ["maskgit"]}, {"name": 3}])
def test_a_description_of_another_shape_is_none(described: Any) -> None:
    assert isinstance(host_for(model_of("maskgit", host=described)), MaskGITHost)


def test_what_is_missing_is_asked_for_as_it_is_typed(tmp_path: Path) -> None:
    there = trained(data="there\x1b/codes.npz", vqgan="VQ/")
    host = host_for(there)
    said = r"\(trained with 'there\\x1b/codes.npz', its file says\)"
    with pytest.raises(
        UserError, match=f"^name the data of host 'maskgit': host.data=PATH {said}$"
    ):
        host.data()
    host.typed = "--host-option "
    with pytest.raises(UserError, match="'maskgit': --host-option data=PATH "):
        host.data()
    with pytest.raises(UserError, match="^name the data of host 'maskgit': host.data=PATH$"):
        host_for(trained(data=3)).data()


def test_options_of_another_host_are_not_kept() -> None:
    strange = model_of("halton_maskgit", host={"name": "maskgit", "heads": 3})
    host = host_for(strange, "halton_maskgit")
    assert isinstance(host, HaltonHost)
    assert host.own["heads"] is None
    with pytest.raises(UserError, match="a model of 'halton_maskgit', not of host 'maskgit'"):
        host_for(strange)


def test_a_kind_without_a_host_is_named() -> None:
    with pytest.raises(UserError, match="unknown host 'abacus'"):
        host_for(model_of("abacus"))
