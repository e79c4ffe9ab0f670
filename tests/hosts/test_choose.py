from dataclasses import replace
from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.hosts import host_for
from di4c_plugin.hosts.builtin import BuiltinHost
from di4c_plugin.hosts.images.grid_host import HaltonHost, MaskGITHost
from di4c_plugin.models import Model


def model_of(kind: str, **described: Any) -> Model:
    """A model as far as its description."""
    model = BuiltinHost().new_teacher({"name": "absorbing"}, hidden_size=8, num_blocks=1)
    network = type("Network", (), {"kind": kind})()
    return replace(model, network=network, info=described)


@pytest.mark.parametrize("kind", ["transformer", "dit"])
def test_our_own_networks_have_the_built_in_host(kind: str) -> None:
    assert isinstance(host_for(model_of(kind)), BuiltinHost)


def test_the_options_of_the_training_are_kept_unless_others_are_given() -> None:
    trained = model_of("maskgit", host={"name": "maskgit", "data": "codes.npz", "heads": 4})
    host = host_for(trained, heads=2)
    assert isinstance(host, MaskGITHost)
    assert (host.path, host.own["heads"]) == ("codes.npz", 2)
    assert host_for(trained, "maskgit").described() == host_for(trained).described()


def test_options_of_another_host_are_not_kept() -> None:
    strange = model_of("halton_maskgit", host={"name": "maskgit", "data": "codes.npz"})
    host = host_for(strange, "halton_maskgit")
    assert isinstance(host, HaltonHost)
    assert host.path is None
    with pytest.raises(UserError, match="a model of 'halton_maskgit', not of host 'maskgit'"):
        host_for(strange)


def test_a_kind_without_a_host_is_named() -> None:
    with pytest.raises(UserError, match="unknown host 'abacus'"):
        host_for(model_of("abacus"))
