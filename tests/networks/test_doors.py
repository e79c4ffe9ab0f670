"""Doors by name: the families' tables, and a user's own for a network that nobody knows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import load_model, new_model
from di4c_plugin.networks.attach import latent_shape
from di4c_plugin.networks.dit import DOORS, DiT
from di4c_plugin.networks.doors import find_doors
from di4c_plugin.networks.latent import same_options
from di4c_plugin.programs.text.networks import new_student
from tests.networks.backbone import CONFIG, backbone, batch, with_latent

PROCESS = Absorbing(7, mask=6)
NAMES: dict[str, Any] = {
    "embedding": "wte",
    "positions": "turn",
    "blocks": "h.*",
    "norms": ["h.*.norm1", "h.*.norm2", "top.norm_final"],
    "last": "top",
    "head": "top.linear",
}


class Other(nn.Module):
    """The function of a DiT under names of its own."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.wte, self.sigma_map, self.turn = dit.vocab_embed, dit.sigma_map, dit.rotary_emb
        self.h, self.top = dit.blocks, dit.output_layer

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        h, c = self.wte(x), nn.functional.silu(self.sigma_map(sigma))
        rotation = self.turn(h)
        for block in self.h:
            h = block(h, rotation, c)
        logits: Tensor = self.top(h, c)
        return logits


def test_a_star_is_every_child_and_several_stars_take_turns() -> None:
    network = backbone()
    doors = find_doors(network, DOORS)
    first, second = network.blocks
    assert doors.blocks == (first, second)
    norms: list[Any] = [first.norm1, first.norm2, second.norm1, second.norm2]
    assert doors.norms == (*norms, network.output_layer.norm_final)
    assert doors.output is second
    assert doors.head is network.output_layer.linear
    assert doors.sequence is None


@pytest.mark.parametrize("name", ["token", "adaln", "mask_noise"])
@pytest.mark.parametrize("blocks", [None, 1])
def test_names_of_the_user_open_a_network_that_nobody_knows(name: str, blocks: int | None) -> None:
    latent = {"name": name, "blocks": blocks}
    torch.manual_seed(0)
    known = with_latent(backbone(), latent, PROCESS, 6)
    torch.manual_seed(0)
    other = with_latent(Other(backbone()), latent | {"doors": NAMES}, PROCESS, 6)
    shape = latent_shape(other)
    assert shape is not None
    lam = torch.rand(6, *shape, generator=torch.Generator().manual_seed(1))
    x, sigma = batch()
    assert torch.equal(other(x, sigma, latent=lam), known(x, sigma, latent=lam))
    assert not torch.allclose(other(x, sigma, latent=lam)[:3], Other(backbone())(x, sigma))


def test_a_student_on_it_goes_on_from_a_student_on_it() -> None:
    latent = {"name": "adaln", "doors": NAMES}
    first = with_latent(Other(backbone()), latent, PROCESS, 6)
    weights = Weights(dict(first.state_dict()), latent, {}, None, "a student", "")
    second = new_student(Other(backbone(seed=3)), latent, weights, PROCESS, 6)
    for name, value in second.state_dict().items():
        assert torch.equal(value, weights.tensors[name])


@pytest.mark.parametrize(
    ("doors", "message"),
    [
        ({"embedding": "vocab_embd"}, "Backbone has no 'vocab_embd' .the nearest is 'vocab_embed'"),
        ({"blocks": "block.*"}, "^latent.doors.blocks: Backbone has no 'block' .the nearest is 'b"),
        ({"norms": ["blocks.*.ln1"]}, "^latent.doors.norms: Backbone has no 'blocks.0.ln1' .the n"),
        ({"norms": ["blocks.*.norm1"]}, "^latent.doors.norms are 2, and this network has 5$"),
        ({"embeding": "x"}, "^latent.doors has no 'embeding'; it has embedding, norms, output, "),
        ({"embedding": 3}, "^latent.doors.embedding is 3: no name of a sub-module$"),
        ({"embedding": ""}, "^latent.doors.embedding is '': no name of a sub-module$"),
        ({"norms": [3]}, "^latent.doors.norms is a list: no name of a sub-module$"),
        ({"embedding": "__class__"}, "^latent.doors.embedding: Backbone has no '__class__'"),
        ({"embedding": None}, "^a latent cannot enter Backbone: say latent.doors.embedding$"),
        ("vocab_embed", "^latent.doors is a set of names of sub-modules, not 'vocab_embed'$"),
    ],
)
def test_a_name_that_there_is_not_gets_one_line(doors: Any, message: str) -> None:
    sizes: Any = CONFIG
    from di4c_plugin.families.dit import DiTNetworks

    with pytest.raises(UserError, match=message) as caught:
        DiTNetworks().let_latent_in(backbone(), {"name": "adaln", "doors": doors}, sizes, PROCESS)
    assert "\n" not in str(caught.value)


def test_doors_stand_in_the_model_file(tmp_path: Any) -> None:
    doors = {"embedding": "vocab_embed"}
    model = new_model(CONFIG, PROCESS, {"name": "adaln", "doors": doors})
    model.save(tmp_path / "x.safetensors")
    assert (load_model(tmp_path / "x.safetensors").latent or {})["doors"] == doors


def test_one_rule_for_the_same_latent() -> None:
    whole = {"name": "token", "dim": 1, "features": 128, "blocks": None, "doors": None}
    assert same_options({"name": "token"}, whole)
    assert same_options(None, None)
    for other in ({"name": "adaln"}, {"name": "token", "dim": 2}, whole | {"blocks": 1}, None):
        assert not same_options({"name": "token"}, other)
    assert not same_options({"name": "token", "doors": NAMES}, whole)
