"""A latent by hooks, on a network that knows nothing of it."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from di4c_plugin.errors import UserError
from di4c_plugin.families.dit import backbone_sizes
from di4c_plugin.networks.attach import (
    Head,
    attach_latent,
    exact_head,
    head_of,
    latent_shape,
)
from di4c_plugin.networks.dit import DOORS
from di4c_plugin.networks.latent import LATENTS
from tests.networks import dit_reference
from tests.networks.backbone import CONFIG, Backbone, KeptRotary, backbone, batch, doors, state

MASK = 6
every_latent = pytest.mark.parametrize("name", sorted(LATENTS))


def attached(name: str, *, mask: int | None = MASK, **options: Any) -> Backbone:
    torch.manual_seed(0)
    network = backbone()
    injector = LATENTS[name](backbone_sizes(network, 6), **options)
    attach_latent(network, injector, doors(network), mask=mask)
    return network.eval()


def latents(network: nn.Module, seed: int = 0) -> torch.Tensor:
    shape = latent_shape(network)
    assert shape is not None
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))


def test_the_token_is_one_more_that_is_not_rotated() -> None:
    """As the released students: same names, same function as the independent evaluation."""
    weights = state(latent=True)
    network = attached("token")
    network.load_state_dict(weights)
    (x, sigma), lam = batch(), latents(network)
    want = dit_reference.logits(weights, x, sigma, CONFIG.n_heads, lam[:, 0])
    torch.testing.assert_close(network(x, sigma, latent=lam).double(), want, rtol=1e-4, atol=1e-4)
    without = dit_reference.logits(weights, x, sigma, CONFIG.n_heads)
    assert (want - without).abs().max() > 1e-2


def test_kept_rotations_stay_as_they_were() -> None:
    network = attached("token")
    x, sigma = batch()
    first = network(x, sigma, latent=latents(network))
    rotary = network.rotary_emb
    assert isinstance(rotary, KeptRotary)
    assert rotary.tables is not None
    want = KeptRotary(rotary.head_size)(torch.empty(1, 7, 1))
    assert all(torch.equal(kept, fresh) for kept, fresh in zip(rotary.tables, want, strict=True))
    assert torch.equal(network(x, sigma, latent=latents(network)), first)


@pytest.mark.parametrize("name", ["adaln", "mask_noise"])
def test_a_silent_injector_leaves_every_logit(name: str) -> None:
    network = attached(name, std=0.0)
    assert torch.equal(network(*batch(), latent=latents(network)), backbone()(*batch()))


@every_latent
def test_lambda_matters_example_by_example(name: str) -> None:
    network, (x, sigma) = attached(name), batch()
    one, other = latents(network), latents(network, seed=1)
    mixed = torch.stack([one[0], other[1], one[2]])
    logits = network(x, sigma, latent=mixed)
    assert torch.equal(logits[::2], network(x, sigma, latent=one)[::2])
    assert not torch.allclose(logits[1], network(x, sigma, latent=one)[1], atol=1e-5)
    assert torch.equal(logits[1], network(x, sigma, latent=other)[1])


def test_every_norm_has_its_own_place_in_the_latents_count() -> None:
    network: Any = attached("adaln")
    called: list[int] = []

    def on_norm(h: torch.Tensor, code: torch.Tensor, layer: int) -> torch.Tensor:
        called.append(layer)
        return h

    network.di4c_injector[0].on_norm = on_norm
    network(*batch(), latent=latents(network))
    assert called == list(range(CONFIG.num_norms))


def test_noise_enters_at_unknown_positions_only() -> None:
    (_, sigma), known = batch(), torch.zeros(3, 6, dtype=torch.int64)
    network = attached("mask_noise")
    one, other = latents(network), latents(network, seed=1)
    # With nothing unknown, lambda changes nothing; with another mask, or none, it does.
    assert torch.equal(network(known, sigma, latent=one), network(known, sigma, latent=other))
    for mask in (0, None):
        network = attached("mask_noise", mask=mask)
        assert not torch.equal(
            network(known, sigma, latent=one), network(known, sigma, latent=other)
        )


@every_latent
def test_a_missing_lambda_is_drawn_for_each_example(name: str) -> None:
    network, (x, sigma) = attached(name), batch()
    x, sigma = x[:1].repeat(3, 1), sigma[:1].repeat(3)
    torch.manual_seed(5)
    drawn = network(x, sigma)
    torch.manual_seed(5)
    lam = torch.rand(3, *network.latent_shape)  # type: ignore[misc]
    assert torch.equal(drawn, network(indices=x, sigma=sigma, latent=lam))
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-5)
    assert not torch.equal(drawn, network(x, sigma))


@every_latent
def test_the_injectors_weights_are_the_networks_own(name: str) -> None:
    before, network = dict(backbone().named_parameters()), attached(name)
    after = dict(network.named_parameters())
    assert list(after)[: len(before)] == list(before)
    new = {n.split(".")[0] for n in after.keys() - before.keys()}
    assert new == {"token": {"latent_projection"}, "adaln": {"modulation"}}.get(
        name, {"projection"}
    )
    assert after.keys() == network.state_dict().keys()
    network(*batch(), latent=latents(network)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in after.values())


@every_latent
def test_a_copy_is_another_network(name: str) -> None:
    network = attached(name)
    lam, twin = latents(network), copy.deepcopy(network)
    logits = network(*batch(), latent=lam)
    assert torch.equal(twin(*batch(), latent=lam), logits)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(2)
    assert torch.equal(twin(*batch(), latent=lam), logits)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert not torch.equal(network(*batch(), latent=lam), torch.zeros_like(logits))
    assert latent_shape(twin) == latent_shape(network)


def test_a_copy_of_an_untouched_network_has_no_latent() -> None:
    network = backbone()
    twin = copy.deepcopy(network)
    attach_latent(twin, LATENTS["token"](backbone_sizes(network, 6)), doors(twin), mask=MASK)
    assert latent_shape(network) is None
    assert network(*batch()).shape == (3, 6, 7)


def test_another_architecture_and_a_second_latent_are_refused() -> None:
    injector = LATENTS["token"](backbone_sizes(backbone(), 6))
    with pytest.raises(UserError, match="^latent.doors.embedding: Linear has no 'vocab_embed'$"):
        doors(nn.Linear(2, 2))
    network = attached("token")
    with pytest.raises(UserError, match="has a latent already"):
        attach_latent(network, injector, doors(network))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_head_is_exact_whatever_it_is_given(dtype: torch.dtype) -> None:
    linear = nn.Linear(4, 3)
    layer = nn.Module()
    layer.linear = linear
    network = nn.Module()
    network.output_layer = layer
    head, h = exact_head(network, DOORS["head"]), torch.randn(2, 5, 4).to(dtype)
    assert exact_head(network, DOORS["head"]) is head is layer.linear is head_of(network)
    assert (head.weight, head.bias) == (linear.weight, linear.bias)
    want = h.double() @ linear.weight.double().T + linear.bias.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, rounded = head(h), linear(h)
    assert logits.dtype == torch.float32
    assert (logits - want).abs().max() < 1e-5 < (rounded - want).abs().max()


def test_a_skipped_head_hands_out_what_it_gets() -> None:
    head, h = Head(nn.Linear(4, 3)), torch.randn(2, 4)
    head.skipped = True
    assert head(h) is h
    head.skipped = False
    assert head(h).shape == (2, 3)


def test_sizes_are_read_off_the_network() -> None:
    sizes = backbone_sizes(backbone(), 6)
    assert (sizes.hidden_size, sizes.embedding_size, sizes.positions, sizes.num_norms) == (
        CONFIG.hidden_size,
        CONFIG.embedding_size,
        CONFIG.positions,
        CONFIG.num_norms,
    )
