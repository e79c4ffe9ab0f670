"""The output of a block of a frozen network on clean sequences."""

from typing import Any

import pytest
import torch
from torch import nn

from di4c_plugin.algorithms.features import block_of, features_of
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from tests.algorithms import tiny


def test_features_are_what_the_block_returns_in_a_whole_pass() -> None:
    made = tiny.denoiser(tiny.masked()).train()
    x = tiny.batch(3).x_0
    blocks: Any = made.network.blocks
    seen: list[Any] = []
    for index in (0, 1):
        hook = blocks[index].register_forward_hook(lambda m, a, out: seen.append(out))
        made.eval()
        with torch.no_grad():
            made(x, torch.zeros(3).double())
        hook.remove()
        made.train()
        found = features_of(made, block_of(made.network, index), x, None)
        assert torch.equal(found, seen.pop())
        assert not found.requires_grad
        assert made.training


def test_the_pass_ends_at_the_block() -> None:
    made = tiny.denoiser(tiny.masked())
    blocks: Any = made.network.blocks
    seen: list[Any] = []
    blocks[1].register_forward_pre_hook(lambda m, a: seen.append(a))
    features_of(made, block_of(made.network, 0), tiny.batch(2).x_0, None)
    assert not seen
    made(tiny.batch(2).x_0, torch.ones(2).double())
    assert seen, "and only while features are asked for"


@pytest.mark.parametrize(("blocks", "index"), [(1, 0), (2, 1), (3, 1), (8, 2), (12, 3), (24, 6)])
def test_a_quarter_of_the_way_up_but_not_the_first(blocks: int, index: int) -> None:
    network = nn.Module()
    network.layers = nn.ModuleList(nn.Identity() for _ in range(blocks))
    assert block_of(network, names="layers.*") is network.layers[index]


def test_blocks_are_known_where_no_doors_are() -> None:
    sizes = TransformerConfig(
        3, 4, (2, 2), hidden_size=8, embedding_size=4, num_blocks=2, num_heads=2
    )
    made = new_model(sizes, Absorbing(3)).denoiser
    network: Any = made.network
    block = block_of(network)
    assert block is network.blocks[1]
    assert features_of(made, block, torch.zeros(2, 4).long(), None).shape == (2, 4, 8)


def test_mistakes() -> None:
    made = tiny.denoiser(tiny.masked())
    with pytest.raises(UserError, match="^block must be 0 ... 1 of DiT, not 2"):
        block_of(made.network, 2)
    with pytest.raises(UserError, match="^blocks: DiT has no 'layers'"):
        block_of(made.network, names="layers")
    with pytest.raises(UserError, match="^no family knows the blocks of Linear: say algo.blocks"):
        block_of(nn.Linear(1, 1))
    with pytest.raises(UserError, match="^the block Identity is not called: features are a vector"):
        features_of(made, nn.Identity(), tiny.batch(2).x_0, None)
    head = block_of(made.network, names="sigma_map")
    with pytest.raises(UserError, match=r"^the block SigmaEmbedding gives \(2, 4\): features"):
        features_of(made, head, tiny.batch(2).x_0, None)
