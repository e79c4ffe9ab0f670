"""A latent that enters only the last blocks of our transformer."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.families import load_model, new_model, student_of
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.networks.latent import LatentInjector

MASK, B, N = 5, 2, 3
CONFIG = TransformerConfig(
    num_tokens=5,
    num_states=6,
    grid=(2, 4),
    hidden_size=16,
    embedding_size=16,
    num_blocks=3,
    num_heads=2,
    num_classes=2,
    time_conditioned=True,
    mask=MASK,
)
every_latent = pytest.mark.parametrize("name", ["adaln", "mask_noise", "token"])
every_depth = pytest.mark.parametrize("blocks", [None, 1, 2, 3])


def student(name: str, blocks: int | None) -> Model:
    torch.manual_seed(0)
    return new_model(CONFIG, Absorbing(5), {"name": name, "blocks": blocks})


def network(name: str, blocks: int | None) -> nn.Module:
    return student(name, blocks).denoiser.network.double()


def batch(of: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, t and cond of B examples, and N lambdas for each."""
    x_t = torch.tensor([[0, 1, 2, 3, MASK, MASK, MASK, MASK], [MASK, 4, MASK, 0, 1, 2, MASK, 3]])
    shape: Any = of.latent_shape
    lam = torch.rand(N * B, *shape, generator=torch.Generator().manual_seed(1))
    return x_t, torch.tensor([0.5, 0.9]).double(), torch.tensor([1, -1]), lam


def run(of: nn.Module, *, repeated: bool = False) -> Tensor:
    x_t, t, cond, lam = batch(of)
    if repeated:
        x_t, t, cond = x_t.repeat(N, 1), t.repeat(N), cond.repeat(N)
    logits: Tensor = of(x_t, t, cond=cond, latent=lam)
    return logits


def rows_of_blocks(of: nn.Module) -> list[int]:
    rows: list[int] = []
    for block in of.blocks:  # type: ignore[union-attr]
        block.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    run(of)
    return rows


@every_latent
@every_depth
def test_n_latents_on_one_row_are_n_rows(name: str, blocks: int | None) -> None:
    one = network(name, blocks)
    torch.testing.assert_close(run(one), run(one, repeated=True))


@every_latent
@every_depth
def test_blocks_before_the_latent_run_once_an_example(name: str, blocks: int | None) -> None:
    late = blocks or 3
    assert rows_of_blocks(network(name, blocks)) == [B] * (3 - late) + [N * B] * late


@every_latent
def test_the_last_blocks_of_as_many_are_all_blocks(name: str) -> None:
    every, late = network(name, None), network(name, 3)
    late.load_state_dict(every.state_dict())
    if name == "mask_noise":  # before the positions are added, and after; the sum is one
        every.patch_in = late.patch_in = nn.Identity()
    torch.testing.assert_close(run(late), run(every))


def test_a_late_adaln_is_one_that_is_silent_before() -> None:
    every, late = network("adaln", None), network("adaln", 1)
    with torch.no_grad():
        for p, q in zip(every.latent.parameters(), late.latent.parameters(), strict=True):  # type: ignore[union-attr]
            p[: -len(q)] = 0
            p[-len(q) :] = q.normal_(std=0.3)
    body = {k: v for k, v in late.state_dict().items() if not k.startswith("latent.")}
    every.load_state_dict(body, strict=False)
    torch.testing.assert_close(run(late), run(every))


@every_latent
@every_depth
def test_gradients_reach_every_parameter(name: str, blocks: int | None) -> None:
    one = network(name, blocks)
    run(one).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in one.parameters())


@every_latent
def test_gradients_are_those_of_repeated_rows(name: str) -> None:
    one = network(name, 1)
    twin = copy.deepcopy(one)
    run(one).square().sum().backward()
    run(twin, repeated=True).square().sum().backward()
    for p, q in zip(one.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_late_noise_moves_the_residual_stream_at_unknown_positions() -> None:
    one, seen = network("mask_noise", 1), []
    last: Any = one.blocks[-1]  # type: ignore[index]
    last.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    run(one)
    unknown = batch(one)[0] == MASK
    first, *others = seen[0].view(N, B, 8, 16)
    for other in others:
        assert torch.equal((other != first).any(-1), unknown)


@every_latent
def test_a_late_student_is_saved_with_its_blocks(name: str, tmp_path: Path) -> None:
    model = student(name, 2)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.latent == {"name": name, "blocks": 2}
    injector = again.denoiser.network.latent
    assert isinstance(injector, LatentInjector)
    assert injector.blocks == 2
    assert torch.equal(run(again.denoiser.network), run(model.denoiser.network))


def test_an_injector_carries_over_to_the_same_blocks_only() -> None:
    teacher = student("token", None)
    weights = teacher.denoiser.state_dict()
    for latent, same in (({"name": "token"}, True), ({"name": "token", "blocks": 1}, False)):
        own = student_of(teacher, latent).denoiser.state_dict()
        assert own.keys() == weights.keys()
        assert all(torch.equal(own[k], weights[k]) for k in own if ".latent." not in k)
        assert same == all(torch.equal(own[k], weights[k]) for k in own)
