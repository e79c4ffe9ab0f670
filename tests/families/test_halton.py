"""Halton-MaskGIT's network with and without a latent, against its parts one by one."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.errors import UserError
from di4c_plugin.families.halton import HEADS
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.latent import LatentInjector, sinusoid
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_halton import ABSORBING, NETS, SIZES, plain
from tests.stand_ins.images.small_maskgit import COND, LAM, D, K, T, X, as_weights, randomised

LATENTS = [
    {"name": "token"},
    {"name": "adaln"},
    {"name": "mask_noise"},
    {"name": "token", "blocks": 1},
    {"name": "adaln", "blocks": 2},
    {"name": "adaln", "blocks": 3},
]
named = pytest.mark.parametrize("latent", LATENTS, ids=str)


def weights(tmp_path: Path, state: dict[str, Tensor]) -> Any:
    """As a host's file gives them."""
    torch.save({"iter": 1, "model_state_dict": state}, tmp_path / "h.pth")
    return NETS.read(read_content(tmp_path / "h.pth"))


def direct(network: Any) -> Tensor:
    logits = network(X.view(2, 3, 3), torch.tensor([3, 0]), torch.tensor([False, True]))
    return logits[..., :K].log_softmax(-1)


@torch.no_grad()
def test_teacher_is_the_hosts_network(root: Root, tmp_path: Path) -> None:
    place = root("halton_maskgit")
    network = plain(place)
    teacher = NETS.at(place).restore(weights(tmp_path, network.state_dict()), SIZES)
    log_p = teacher(X, T, cond=COND)
    torch.testing.assert_close(log_p[..., :K], direct(network), atol=1e-6, rtol=1e-6)
    assert (log_p[..., K] < -1e5).all()
    assert teacher.network.state_dict().keys() == network.state_dict().keys()
    parts: Any = teacher.network
    assert parts.head.weight is parts.tok_emb.weight


@torch.no_grad()
def test_token_is_its_formula(root: Root, tmp_path: Path) -> None:
    place = root("halton_maskgit")
    network = plain(place)
    given = weights(tmp_path, network.state_dict())
    student = NETS.at(place).student(given, SIZES, {"name": "token"}).eval()
    parts: Any = student.network
    token = parts.latent_projection(sinusoid(LAM, 128))[:, None]
    y = network.cls_emb(torch.tensor([3, SIZES.classes]))
    x = network.tok_emb(X) + network.pos_emb.weight
    x = torch.cat([x, network.reg_tokens.weight.expand(2, -1, -1), token], 1)
    h = network.last_norm(network.transformer(x, y)[:, :D], y)
    expected = network.head(h)[..., :K].log_softmax(-1)
    found = student(X, T, cond=COND, latent=LAM)[..., :K]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    # The student's file, read back.
    again = weights(tmp_path, student.network.state_dict())
    assert again.latent == {"name": "token"}
    restored = NETS.at(place).restore(again, SIZES)
    torch.testing.assert_close(restored(X, T, cond=COND, latent=LAM)[..., :K], expected)


@torch.no_grad()
def test_injector_that_does_nothing(root: Root) -> None:
    network = plain(root("halton_maskgit"))
    expected = direct(network)
    attach_latent(network, LatentInjector(), NETS.doors(network), mask=K)
    assert torch.equal(direct(network), expected)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [None, 1, 2, 3])
def test_adaln_is_its_formula(root: Root, tmp_path: Path, blocks: int | None) -> None:
    place = root("halton_maskgit")
    network = plain(place)
    latent = {"name": "adaln", "blocks": blocks}
    given = weights(tmp_path, network.state_dict())
    student = NETS.at(place).student(given, SIZES, latent).eval()
    count = 2 * (blocks or 3) + 1
    parts: Any = student.network
    code = parts.modulation(sinusoid(LAM, 128)).view(2, count, 2, 1, SIZES.hidden)
    norms = [norm for block in network.transformer.layers for norm in (block.ln1, block.ln2)]
    norms = [*norms, network.last_norm.norm_final][-count:]
    for i, norm in enumerate(norms):

        def change(module: Any, args: Any, h: Tensor, i: int = i) -> Tensor:
            return (1 + code[:, i, 0]) * h + code[:, i, 1]

        norm.register_forward_hook(change)
    found = student(X, T, cond=COND, latent=LAM)[..., :K]
    torch.testing.assert_close(found, direct(network), atol=1e-6, rtol=1e-6)


@torch.no_grad()
@named
def test_many_latents_for_a_row(root: Root, tmp_path: Path, latent: dict[str, Any]) -> None:
    place = root("halton_maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, latent).eval()
    parts: Any = student.network
    rows: list[int] = []
    for block in parts.transformer.layers:
        block.register_forward_hook(lambda module, args, h: rows.append(len(h)))
    lam = torch.rand(6, *student.latent_shape or ())
    many = student(X, T, cond=COND, latent=lam)
    first = 3 - (latent.get("blocks") or 3)
    assert rows == [2] * first + [6] * (3 - first)
    for n in range(3):
        one = student(X, T, cond=COND, latent=lam[2 * n : 2 * n + 2])
        torch.testing.assert_close(many[2 * n : 2 * n + 2], one, atol=1e-5, rtol=1e-6)
    assert not torch.allclose(many[:2], many[2:4])


@named
def test_gradients_reach_the_latent(root: Root, tmp_path: Path, latent: dict[str, Any]) -> None:
    place = root("halton_maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, latent)
    x = X.clone()
    x[:, 0] = K
    lam = torch.rand(2, *student.latent_shape or ())
    student(x, T, cond=COND, latent=lam)[:, 0, 1].sum().backward()
    assert not {n for n, p in student.named_parameters() if p.grad is None}


@torch.no_grad()
def test_hidden_states_and_head(root: Root, tmp_path: Path) -> None:
    place = root("halton_maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    options: dict[str, Any] = {"process": ABSORBING}
    sizes = replace(SIZES, carry_over=True)
    student = NETS.at(place).student(given, sizes, {"name": "token"}, **options).eval()
    head = student.head
    assert head is not None
    assert head is student.head
    h = student.hidden(X, T, cond=COND, latent=LAM)
    log_p = student.process.restrict(linear(h, head.weight, head.bias)).log_softmax(-1)
    expected = student.process.carry_over(log_p, X)
    found = student(X, T, cond=COND, latent=LAM)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert NETS.at(place).denoiser(SIZES).head is None
    with torch.autocast("cpu", torch.bfloat16):
        assert student.logits(X, T, COND, LAM).dtype == torch.float32


@torch.no_grad()
def test_copy(root: Root, tmp_path: Path) -> None:
    place = root("halton_maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, {"name": "token", "blocks": 1}).eval()
    before = student(X, T, cond=COND, latent=LAM)
    other = copy.deepcopy(student)
    randomised(other)
    other(X, T, cond=COND, latent=LAM)
    assert torch.equal(before, student(X, T, cond=COND, latent=LAM))
    exact = copy.deepcopy(student).double()(X, T, cond=COND, latent=LAM)[..., :K]
    torch.testing.assert_close(exact.float(), before[..., :K], atol=1e-5, rtol=0)
    draws = [student.network(X.view(2, 3, 3), COND.abs(), COND < 0) for _ in range(2)]
    assert not torch.equal(*draws)  # lambda is drawn


def test_sizes_of_weights(root: Root, tmp_path: Path) -> None:
    place = root("halton_maskgit")
    given = weights(tmp_path, NETS.at(place).build(SIZES).state_dict())
    assert NETS.sizes(given, heads=2) == SIZES
    with pytest.raises(UserError, match="width 16 and 3 blocks.*heads="):
        NETS.sizes(given)
    patches = weights(tmp_path, given.tensors | {"in_proj.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="proj=2"):
        NETS.sizes(patches, heads=2)
    with pytest.raises(UserError, match="17 heads"):
        NETS.at(place).build(replace(SIZES, heads=17))
    assert HEADS[512, 12] == 6


@pytest.mark.host
def test_without_registers(real_root: Root) -> None:
    sizes = replace(SIZES, registers=0)
    student = NETS.at(real_root("halton_maskgit")).denoiser(sizes, {"name": "token"})
    assert NETS.sizes(as_weights(student.network), heads=2) == sizes
    assert student(X, T, latent=torch.rand(4, 1)).shape == (4, D, K + 1)


def test_bad_input(root: Root) -> None:
    place = root("halton_maskgit")
    teacher = NETS.at(place).denoiser(SIZES)
    with pytest.raises(UserError, match=r"codes .* are 0 ... 7 here"):
        teacher(X - 1, T)
    with pytest.raises(UserError, match=r"labels .* are -1 ... 4 here, and there are -2 ... 3"):
        teacher(X, T, cond=torch.tensor([-2, 3]))
    with pytest.raises(UserError, match="x has 8 positions: this network has 3 x 3"):
        teacher(X[:, :8], T)
    with pytest.raises(UserError, match="enters at the embedding of each position"):
        NETS.at(place).denoiser(SIZES, {"name": "mask_noise", "blocks": 1})
    with pytest.raises(UserError, match="1 to 3"):
        NETS.at(place).denoiser(SIZES, {"name": "adaln", "blocks": 4})
