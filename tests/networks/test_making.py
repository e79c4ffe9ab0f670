from dataclasses import replace
from typing import Any

import pytest

from di4c_plugin.errors import UserError
from di4c_plugin.networks import DiTConfig, TransformerConfig
from di4c_plugin.networks.latent import LATENTS, Sizes, new_injector, same_options

DIT = DiTConfig(vocab_size=7, length=6, hidden_size=12, cond_dim=5, n_blocks=3, n_heads=2)
GRID = TransformerConfig(
    5, 6, (2, 4), hidden_size=8, embedding_size=8, num_blocks=3, num_heads=2, mask=5
)
networks = pytest.mark.parametrize("network", [DIT, GRID])


def make(network: Sizes, name: str, **options: Any) -> Any:
    return new_injector(network, {"name": name} | options)


@networks
@pytest.mark.parametrize("name", sorted(LATENTS))
@pytest.mark.parametrize("blocks", [None, 1, 3])
def test_blocks_are_no_option_of_the_injector(network: Sizes, name: str, blocks: Any) -> None:
    assert make(network, name, blocks=blocks).blocks == blocks
    assert make(network, name).blocks is None


@networks
def test_adaln_has_weights_for_the_norms_it_modulates_only(network: Sizes) -> None:
    h = network.hidden_size
    rows = [len(make(network, "adaln", blocks=m).modulation.weight) for m in (1, 2, 3, None)]
    assert rows == [3 * 2 * h, 5 * 2 * h, 7 * 2 * h, 7 * 2 * h]


@networks
@pytest.mark.parametrize("blocks", [0, 4, -1, 1.0, "2", True])
def test_blocks_the_network_has_not_are_refused(network: Sizes, blocks: Any) -> None:
    with pytest.raises(UserError, match=r"latent.blocks is .*: this network has 1 to 3, null is a"):
        make(network, "adaln", blocks=blocks)


@pytest.mark.parametrize("other", [{"patch": (1, 2)}, {"embedding_size": 4}])
def test_late_noise_needs_a_residual_stream_of_embeddings(other: dict[str, Any]) -> None:
    network = replace(GRID, **other)
    with pytest.raises(UserError, match="mask_noise enters at the embedding .*leave out latent.bl"):
        make(network, "mask_noise", blocks=1)
    make(network, "mask_noise", blocks=None)
    make(network, "token", blocks=1)


def test_a_latent_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="a latent needs a name beside its options {'dim': 1}"):
        new_injector(DIT, {"dim": 1})


def test_options_are_left_as_they_were() -> None:
    options = {"name": "token", "blocks": 1}
    new_injector(DIT, options)
    assert options == {"name": "token", "blocks": 1}


def test_blocks_that_are_not_said_are_all() -> None:
    one = {"name": "token", "dim": 1}
    assert same_options(one, one | {"blocks": None})
    assert same_options(None, None)
    assert not same_options(one, None)
    assert not same_options(one, one | {"blocks": 3})
    assert not same_options(one, one | {"dim": 2})


def test_the_latent_of_a_unet_has_its_defaults() -> None:
    assert same_options({"name": "unet"}, {"name": "unet", "std": 0.1})
    assert not same_options({"name": "unet"}, {"name": "unet", "std": 0.2})
