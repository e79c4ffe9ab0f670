from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import Host, HostData, host_for
from di4c_plugin.hosts.builtin import HOST as BUILTIN
from di4c_plugin.plugins import lookup

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
    model = BUILTIN().new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1)
    network = type("Network", (), {"kind": kind})()
    return replace(model, network=network, info=described)


def trained(**options: Any) -> Model:
    """A model of MaskGIT with these options of the training in its file."""
    return model_of("maskgit", host={"name": "maskgit"} | options)


@pytest.mark.parametrize(("kind", "name"), [("transformer", "builtin"), ("dit", "mdlm")])
def test_a_model_that_says_nothing_has_the_first_host_of_its_family(kind: str, name: str) -> None:
    assert host_for(model_of(kind)).name == name


def test_text_hosts_ask_for_texts() -> None:
    with pytest.raises(UserError, match="^name the data of host 'mdlm': host.data=PATH$"):
        host_for(model_of("dit")).data()


def test_a_host_may_have_its_data_in_its_program_alone() -> None:
    host = Host("x", lookup("host", "mdlm").family)
    with pytest.raises(UserError, match="^host 'x' has no data here: they are its own program"):
        host().data()


def test_sizes_of_the_training_are_kept_unless_others_are_given() -> None:
    host = host_for(trained(**SIZES), heads=2)
    assert host.name == "maskgit"
    assert host.described()["host"] == dict.fromkeys(PLACES) | SIZES | {
        "name": "maskgit",
        "heads": 2,
        "codes": None,
    }
    named = host_for(trained(**SIZES), "maskgit")
    assert named.described() == host_for(trained(**SIZES)).described()


def test_no_place_is_taken_from_a_file() -> None:
    host = host_for(trained(**PLACES, trust=True), data="mine.npz")
    assert host.name == "maskgit"
    found = host.described()["host"]
    assert {name: found[name] for name in PLACES} == dict.fromkeys(PLACES) | {"data": "mine.npz"}
    assert host.root is None
    described = {"name": "tauldr", "config": "x.yaml", "root": "x", "data": "x", "mirror": True}
    pixels = host_for(model_of("tauldr", host=described))
    assert pixels.name == "tauldr"
    assert pixels.options == {"root": None, "process": None} | dict.fromkeys(
        ("config", "dropout", "data")
    ) | {"mirror": True}


def test_a_host_that_declares_nothing_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strange(HostData):
        def __init__(self, size: int = 1, trust: bool = False) -> None:
            self.seen = {"size": size, "trust": trust}

    found = {"strange": Host("strange", BUILTIN.family, Strange)}
    for module in ("di4c_plugin.hosts.choose", "di4c_plugin.plugins"):
        monkeypatch.setattr(f"{module}.lookup", lambda kind, name: found[name])
    strange = model_of("transformer", host={"name": "strange", "trust": True, "size": 3})
    assert host_for(strange, size=4).options == {"size": 4, "trust": False}
    found["strange"] = replace(found["strange"], kept={"size": int})
    assert host_for(strange).options == {"size": 3, "trust": False}


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
    assert host_for(model_of("maskgit", host=described)).name == "maskgit"


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
    assert host.name == "halton_maskgit"
    assert host.options["heads"] is None
    with pytest.raises(UserError, match="'halton_maskgit', and host 'maskgit' has 'maskgit'"):
        host_for(strange)


def test_a_kind_without_a_host_is_named() -> None:
    with pytest.raises(UserError, match="unknown host 'abacus'"):
        host_for(model_of("abacus"))
