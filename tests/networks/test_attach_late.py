"""A latent by hooks that enters only the last blocks of a network that knows nothing of it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.diffusion import LogLinear
from di4c_plugin.families.dit import backbone_sizes
from di4c_plugin.networks.attach import attach_latent, exact_head, latent_shape
from di4c_plugin.networks.dit import DOORS, DiT
from di4c_plugin.networks.latent import LATENTS, new_injector
from tests.networks.backbone import CONFIG, Backbone, backbone, batch, doors, state

MASK, N = 6, 4
L = CONFIG.n_blocks
every_latent = pytest.mark.parametrize("name", sorted(LATENTS))
every_depth = pytest.mark.parametrize("blocks", [None, 1, 2])


class KeywordBackbone(Backbone):
    """Hands the embedding of sigma to blocks and last layer by name, as Duo does."""

    def forward(self, indices: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        h, c = self.vocab_embed(indices), torch.nn.functional.silu(self.sigma_map(sigma))
        rotation = self.rotary_emb(h)
        for block in self.blocks:
            h = block(h, rotation, c=c)
        logits: Tensor = self.output_layer(h, c=c)
        return logits


def attached(
    name: str, blocks: int | None, kind: Any = Backbone, *, mask: int | None = MASK
) -> nn.Module:
    network: nn.Module = DiT(CONFIG, LogLinear(eps=1e-3)) if kind is DiT else kind()
    network.load_state_dict(state())
    torch.manual_seed(0)
    options = {"name": name, "blocks": blocks}
    injector = new_injector(backbone_sizes(network, CONFIG.length), options)
    attach_latent(network, injector, doors(network), mask=mask)
    return network.eval()


def run(network: nn.Module, *, rows: int = 3, repeated: bool = False, n: int = N) -> Tensor:
    (x, sigma), shape = batch(), latent_shape(network)
    assert shape is not None
    x, sigma = x[:rows], sigma[:rows]
    lam = torch.rand(n * rows, *shape, generator=torch.Generator().manual_seed(1))
    if isinstance(network, DiT) and not isinstance(network, Backbone):
        sigma = sigma.double() / 10  # a time
    if repeated:
        x, sigma = x.repeat(n, 1), sigma.repeat(n)
    logits: Tensor = network(x, sigma, latent=lam)
    return logits


kinds = pytest.mark.parametrize("kind", [Backbone, KeywordBackbone, DiT])


@kinds
@every_latent
@every_depth
@pytest.mark.parametrize("rows", [1, 3])
def test_n_latents_on_one_row_are_n_rows(
    kind: Any, name: str, blocks: int | None, rows: int
) -> None:
    network = attached(name, blocks, kind)
    one, other = run(network, rows=rows), run(network, rows=rows, repeated=True)
    assert one.shape == (N * rows, CONFIG.length, CONFIG.vocab_size)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@kinds
@every_latent
@every_depth
def test_blocks_before_the_latent_run_once_an_example(
    kind: Any, name: str, blocks: int | None
) -> None:
    network: Any = attached(name, blocks, kind)
    shapes: list[tuple[int, int]] = []
    for block in network.blocks:
        block.attn_qkv.register_forward_pre_hook(lambda _, a: shapes.append(a[0].shape[:2]))
    run(network)
    late, longer = blocks or L, CONFIG.length + (name == "token")
    assert shapes == [(3, CONFIG.length)] * (L - late) + [(3 * N, longer)] * late


@every_latent
def test_the_last_blocks_of_as_many_are_all_blocks(name: str) -> None:
    every, late = attached(name, None), attached(name, L)
    late.load_state_dict(every.state_dict())
    torch.testing.assert_close(run(late), run(every))


def test_a_late_token_is_appended_before_its_block_and_not_rotated() -> None:
    """The parts of an untouched twin, called one by one."""
    network: Any = attached("token", 1)
    twin, (x, sigma) = backbone(), batch()
    lam = torch.rand(3, 1)
    c, h = torch.nn.functional.silu(twin.sigma_map(sigma)), twin.vocab_embed(x)
    cos, sin = twin.rotary_emb(h)
    h = twin.blocks[0](h, (cos, sin), c)
    h = torch.cat([h, network.di4c_injector[0].encode(lam)], 1)
    cos, sin = torch.cat([cos, torch.ones(1, 1, 3)], 1), torch.cat([sin, torch.zeros(1, 1, 3)], 1)
    want = twin.output_layer(twin.blocks[1](h, (cos, sin), c)[:, :-1], c)
    torch.testing.assert_close(network(x, sigma, latent=lam), want)


def test_a_late_adaln_is_one_that_is_silent_before() -> None:
    every, late = attached("adaln", None), attached("adaln", 1)
    full, part = every.modulation, late.modulation
    assert isinstance(full, nn.Linear)
    assert isinstance(part, nn.Linear)
    with torch.no_grad():
        for p, q in ((full.weight, part.weight), (full.bias, part.bias)):
            p[: -len(q)] = 0
            p[-len(q) :] = q.normal_(std=0.3)
    torch.testing.assert_close(run(late), run(every))


def test_late_noise_moves_the_residual_stream_at_unknown_positions() -> None:
    network, seen = attached("mask_noise", 1), []
    last: Any = network.blocks[-1]  # type: ignore[index]
    last.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    run(network)
    first, *others = seen[0].view(N, 3, CONFIG.length, -1)
    for other in others:
        assert torch.equal((other != first).any(-1), batch()[0] == MASK)


@every_latent
@every_depth
def test_gradients_reach_every_parameter(name: str, blocks: int | None) -> None:
    network = attached(name, blocks).train()
    run(network).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@every_latent
def test_gradients_are_those_of_repeated_rows(name: str) -> None:
    one = attached(name, 1).double()
    other = copy.deepcopy(one)
    run(one).square().sum().backward()
    run(other, repeated=True).square().sum().backward()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-7)


@every_latent
def test_a_copy_is_another_network(name: str) -> None:
    network = attached(name, 1)
    twin, logits = copy.deepcopy(network), run(network)
    assert torch.equal(run(twin), logits)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(2)
    assert torch.equal(run(twin), logits)


@every_latent
def test_after_a_call_with_many_the_next_may_have_one(name: str) -> None:
    """Kept rotations are as they were, and a missing lambda is drawn once for each example."""
    network = attached(name, 1)
    run(network)
    assert run(network, n=1).shape == (3, CONFIG.length, CONFIG.vocab_size)
    assert network(*batch()).shape == (3, CONFIG.length, CONFIG.vocab_size)
    assert torch.equal(run(network), run(network))


@every_latent
def test_hidden_states_have_a_row_for_each_latent(name: str) -> None:
    network = attached(name, 1)
    logits, head = run(network), exact_head(network, DOORS["head"])
    head.skipped = True
    hidden = run(network)
    assert hidden.shape == (3 * N, CONFIG.length, CONFIG.hidden_size)
    head.skipped = False
    torch.testing.assert_close(head(hidden), logits)


@every_latent
def test_autocast_changes_little(name: str) -> None:
    network = attached(name, 1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run(network)
    exact = run(network)
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()
