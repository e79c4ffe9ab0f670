from dataclasses import replace

import pytest
import torch
from torch import Tensor

from di4c_plugin.errors import UserError
from di4c_plugin.networks import Transformer, TransformerConfig
from di4c_plugin.networks.latent import TokenLatent
from di4c_plugin.networks.transformer import from_patches, to_patches

CONFIG = TransformerConfig(
    num_tokens=5,
    num_states=6,
    grid=(4, 6),
    patch=(2, 3),
    hidden_size=16,
    embedding_size=4,
    num_blocks=2,
    num_heads=2,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(config: TransformerConfig = CONFIG, size: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randint(config.num_states, (size, config.positions)), torch.rand(size).double()


def test_each_patch_holds_its_pixels_in_raster_order() -> None:
    e = torch.randn(2, 24, 7)
    patches = to_patches(e, CONFIG)
    assert patches.shape == (2, 4, 6 * 7)
    for row in range(2):
        for column in range(2):
            pixels = [6 * (2 * row + i) + 3 * column + j for i in range(2) for j in range(3)]
            assert torch.equal(patches[:, 2 * row + column], e[:, pixels].flatten(1))


def test_patches_go_back_where_they_came_from() -> None:
    e = torch.randn(2, 24, 7)
    assert torch.equal(from_patches(to_patches(e, CONFIG), CONFIG), e)


def test_patches_of_one_change_nothing() -> None:
    e, config = torch.randn(2, 24, 7), replace(CONFIG, patch=(1, 1))
    assert torch.equal(to_patches(e, config), e)
    assert torch.equal(from_patches(e, config), e)


@pytest.mark.parametrize("patch", [(1, 1), (2, 3), (4, 6)])
def test_logits_have_a_row_for_every_token(patch: tuple[int, int]) -> None:
    config = replace(CONFIG, patch=patch)
    assert Transformer(config)(*batch(config)).shape == (3, 24, 5)


def test_every_output_sees_every_input() -> None:
    network, (x_t, t) = Transformer(CONFIG), batch(size=1)
    before = network(x_t, t)
    for d in range(CONFIG.positions):
        x_t[0, d] = (x_t[0, d] + 1) % CONFIG.num_states
        after = network(x_t, t)
        assert (after != before).any(-1).all()
        before = after


def test_examples_do_not_see_each_other() -> None:
    network, (x_t, t) = Transformer(CONFIG).double(), batch()
    alone = torch.cat([network(x, time) for x, time in zip(x_t.split(1), t.split(1), strict=True)])
    torch.testing.assert_close(network(x_t, t), alone)


@pytest.mark.parametrize("conditioned", [False, True])
def test_time_enters_only_if_wanted(conditioned: bool) -> None:
    network = Transformer(replace(CONFIG, time_conditioned=conditioned))
    x_t, t = batch()
    assert torch.equal(network(x_t, t), network(x_t, t / 2)) != conditioned


def test_labels_matter_and_no_label_is_a_class_of_its_own() -> None:
    network = Transformer(replace(CONFIG, num_classes=2))
    x_t, t = batch(size=1)
    logits = [network(x_t, t, cond=cond) for cond in (None, torch.tensor([0]), torch.tensor([1]))]
    assert not any(torch.equal(logits[i], logits[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_a_latent_without_injector_or_the_reverse_is_refused() -> None:
    x_t, t = batch()
    student = Transformer(CONFIG)
    student.let_in(TokenLatent(CONFIG))
    with pytest.raises(UserError, match="latent"):
        Transformer(CONFIG)(x_t, t, latent=torch.rand(3, 1))
    with pytest.raises(UserError, match="latent"):
        student(x_t, t)


@pytest.mark.parametrize("wrong", [{"patch": (3, 3)}, {"patch": (2, 4)}, {"num_heads": 3}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="tile|divide"):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]
