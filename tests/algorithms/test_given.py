"""Prompts and padding stay as they are: in every state that any method shows to a network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Algorithm, Batch, Update
from di4c_plugin.plugins import lookup, names_of
from tests.algorithms import tiny

NOISE = {"name": "mask_noise", "dim": 2, "std": 0.5}
METHODS = sorted({*names_of("algorithm")} - {"dcd"})  # which is for uniform states
SIZE = 8


def networks_of(method: Algorithm) -> dict[str, Any]:
    """What a method trains and reads, of random weights."""
    found: dict[str, Any] = {}
    for name, role in method.roles.items():
        latent = None if role.latent == "none" else NOISE
        for key in [name, f"{name}_average"][: 1 + role.averaged]:
            found[key] = tiny.denoiser(tiny.masked(), latent, seed=len(found))
    if method.needs_teacher:
        found["teacher"] = tiny.denoiser(tiny.masked(), seed=9).requires_grad_(False)
    return found


def keep_states(network: nn.Module, seen: list[Tensor]) -> None:
    """Have the states that a network is asked about kept."""

    def keep(module: nn.Module, args: Any, options: Any) -> None:
        seen.append(next(v for v in (*args, *options.values()) if v.dtype == torch.int64))

    network.register_forward_pre_hook(keep, with_kwargs=True)


@pytest.mark.parametrize("loss", ["naive", "auto"])
@pytest.mark.parametrize("name", METHODS)
def test_no_network_sees_another_token_where_one_is_given(name: str, loss: str) -> None:
    options: dict[str, Any] = {} if name == "denoising" else {"loss": loss}
    options |= {"steps": 2, "teacher_steps": 8} if name == "sdtt" else {}
    method = lookup("algorithm", name)(tiny.masked(), **options)
    networks, seen = networks_of(method), list[Tensor]()
    for denoiser in networks.values():
        keep_states(denoiser.network, seen)
    x_0 = tiny.batch(SIZE).x_0
    given = torch.arange(tiny.LENGTH) % 2 == 0
    update = Update(torch.Generator().manual_seed(0), rounds=method.rounds)
    method.losses(Batch(x_0, None, given.expand_as(x_0)), networks, update)
    assert any((state == tiny.MASK).any() for state in seen)
    for state in seen:
        assert (state.unflatten(0, (-1, SIZE)) == x_0)[..., given].all()
