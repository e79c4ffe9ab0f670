"""MaskGIT's network with and without a latent, against evaluations of its parts one by one."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.checkpoints.content import read_content
from di4c_plugin.errors import UserError
from di4c_plugin.families.maskgit import (
    HEADS,
    MaskGITDenoiser,
    MaskGITSizes,
    count,
)
from di4c_plugin.networks.attach import attach_latent
from di4c_plugin.networks.latent import LatentInjector, sinusoid
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import (
    COND,
    LAM,
    NETS,
    SIZES,
    D,
    K,
    T,
    X,
    plain,
    randomised,
)

TOKEN = {"name": "token"}


def weights(tmp_path: Path, state: dict[str, Tensor], name: str = "w.pth") -> Any:
    """As a host's file gives them."""
    content = {"iter": 1, "global_epoch": 0, "model_state_dict": state, "optimizer_state_dict": {}}
    torch.save(content, tmp_path / name)
    return NETS.read(read_content(tmp_path / name))


def direct(network: Any) -> Tensor:
    """Log-probabilities by the host's own forward pass, of codes only."""
    logits = network(X.view(2, 3, 3), torch.tensor([3, 0]), torch.tensor([False, True]))
    return logits[..., :K].log_softmax(-1)


def by_hand(network: Any, token: Tensor) -> Tensor:
    """The documented formula with a token (2, 1, H), from the network's parts."""
    labels = torch.tensor([K + 1 + 3, K + 1 + SIZES.classes])
    x = network.tok_emb(torch.cat([X, labels[:, None]], 1)) + network.pos_emb
    h = network.first_layer(torch.cat([x, token], 1))
    h = network.last_layer(network.transformer(h)[0])[:, :D]
    logits = h @ network.tok_emb.weight[:K].T + network.bias[:D, :K]
    return logits.log_softmax(-1)


@torch.no_grad()
def test_teacher_is_the_hosts_network(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    network = plain(place)
    teacher = NETS.at(place).restore(weights(tmp_path, network.state_dict()), SIZES)
    log_p = teacher(X, T, cond=COND)
    assert log_p.shape == (2, D, K + 1)
    torch.testing.assert_close(log_p[..., :K], direct(network), atol=1e-6, rtol=1e-6)
    assert (log_p[..., K] < -1e5).all()
    assert log_p.exp().sum(-1).allclose(torch.ones(2, D))
    none = teacher(X, T)
    torch.testing.assert_close(none, teacher(X, T, cond=torch.tensor([-1, -1])))


@torch.no_grad()
def test_official_student(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    network = plain(place)
    official = randomised(
        nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, SIZES.hidden))
    )
    state = network.state_dict()
    state |= {f"latent_projection.{k}": v for k, v in official.state_dict().items()}
    student = NETS.at(place).restore(weights(tmp_path, state), SIZES)
    assert student.latent_shape == (1,)
    assert set(student.network.state_dict()) == set(state)
    expected = by_hand(network, official(sinusoid(LAM, 128))[:, None])
    found = student(X, T, cond=COND, latent=LAM)[..., :K]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    # By the host's own forward pass, which keeps its own last product.
    grid = X.view(2, 3, 3), torch.tensor([3, 0]), torch.tensor([False, True])
    logits = student.network(*grid, latent=LAM)
    torch.testing.assert_close(logits[..., :K].log_softmax(-1), expected, atol=1e-6, rtol=1e-6)
    assert student.network(*grid).shape == (2, D, K + 1)


@torch.no_grad()
def test_adaln_is_its_formula(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    network = plain(place)
    given = weights(tmp_path, network.state_dict())
    student = NETS.at(place).student(given, SIZES, {"name": "adaln"}).eval()
    code = student.network.modulation(sinusoid(LAM, 128))  # type: ignore[operator]
    code = code.view(2, 5, 2, 1, SIZES.hidden)
    norms = [part.norm for layer in network.transformer.layers for part in layer]
    for i, norm in enumerate([*norms, network.last_layer[0]]):

        def change(module: Any, args: Any, h: Tensor, i: int = i) -> Tensor:
            return (1 + code[:, i, 0]) * h + code[:, i, 1]

        norm.register_forward_hook(change)
    expected = direct(network)
    found = student(X, T, cond=COND, latent=LAM)[..., :K]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_injector_that_does_nothing(root: Root) -> None:
    """The hooks themselves change no bit; the injector may be anybody's."""
    network = plain(root("maskgit"))
    expected = direct(network)
    attach_latent(network, LatentInjector(), NETS.doors(network), mask=K)
    assert torch.equal(direct(network), expected)
    with pytest.raises(UserError, match="a latent already"):
        attach_latent(network, LatentInjector(), NETS.doors(network), mask=K)


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "adaln", "mask_noise"])
def test_many_latents_for_a_row(root: Root, tmp_path: Path, name: str) -> None:
    place = root("maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, {"name": name}).eval()
    lam = torch.rand(6, *student.latent_shape or ())
    many = student(X, T, cond=COND, latent=lam)
    for n in range(3):
        one = student(X, T, cond=COND, latent=lam[2 * n : 2 * n + 2])
        torch.testing.assert_close(many[2 * n : 2 * n + 2], one, atol=1e-5, rtol=1e-6)
    assert not torch.allclose(many[:2], many[2:4])
    with pytest.raises(UserError, match="3 latents for 2 examples"):
        student(X, T, cond=COND, latent=lam[:3])
    assert student(X, T, cond=COND).shape == (2, D, K + 1)  # lambda is drawn


@pytest.mark.parametrize("name", ["token", "adaln", "mask_noise"])
def test_gradients_reach_the_latent(root: Root, tmp_path: Path, name: str) -> None:
    place = root("maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, {"name": name})
    assert student.training
    x = X.clone()
    x[:, 0] = K
    lam = torch.rand(2, *student.latent_shape or ())
    student(x, T, cond=COND, latent=lam)[:, 0, 1].sum().backward()
    unused = {n for n, p in student.named_parameters() if p.grad is None}
    assert not unused


@torch.no_grad()
def test_copy_and_modes(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    given = weights(tmp_path, plain(place).state_dict())
    student = NETS.at(place).student(given, SIZES, TOKEN).eval()
    other = copy.deepcopy(student)
    before = student(X, T, cond=COND, latent=LAM)
    randomised(other)
    other(X, T, cond=COND, latent=LAM)
    assert torch.equal(before, student(X, T, cond=COND, latent=LAM))
    student.train()
    assert not torch.equal(before, student(X, T, cond=COND, latent=LAM))  # dropout
    exact = copy.deepcopy(student).double().eval()
    found = exact(X, T, cond=COND, latent=LAM)
    torch.testing.assert_close(found.float()[..., :K], before[..., :K], atol=1e-5, rtol=0)


@torch.no_grad()
def test_last_product_is_exact_under_autocast(root: Root) -> None:
    teacher = NETS.at(root("maskgit")).denoiser(SIZES).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher.logits(X, T, COND, None).dtype == torch.float32


@torch.no_grad()
def test_carry_over_and_both_ways_to_count_the_mask(root: Root) -> None:
    place = root("maskgit")
    for process in ({"num_tokens": K}, {"num_tokens": K + 1, "mask": K}):
        for kept in (False, True):
            config = {"name": "absorbing"} | process
            sizes = replace(SIZES, carry_over=kept)
            teacher = NETS.at(place).denoiser(sizes, process=config).eval()
            randomised(teacher.network)
            log_p = teacher(X, T)
            assert log_p.shape[-1] == process["num_tokens"]
            assert torch.equal(log_p.amax(-1) == 0, (X != K) & kept)


def test_bad_input(root: Root) -> None:
    place = root("maskgit")
    teacher = NETS.at(place).denoiser(SIZES)
    with pytest.raises(UserError, match=r"codes .* are 0 ... 7 here, and there are . ... 8"):
        teacher(X + 1, T)
    with pytest.raises(UserError, match=r"labels .* are -1 ... 4 here, and there are 0 ... 5"):
        teacher(X, T, cond=torch.tensor([0, 5]))
    with pytest.raises(UserError, match="x has 8 positions: this network has 3 x 3"):
        teacher(X[:, :8], T)
    with pytest.raises(UserError, match="7 codes and the mask 7"):
        NETS.at(place).denoiser(SIZES, process={"name": "absorbing", "num_tokens": 8})
    with pytest.raises(UserError, match="blocks=null"):
        NETS.at(place).denoiser(SIZES, {"name": "adaln", "blocks": 1})
    with pytest.raises(UserError, match="no checkout of maskgit"):
        NETS.at(place / "nothing").build(SIZES)


def test_sizes_of_weights(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    given = weights(tmp_path, NETS.at(place).build(SIZES).state_dict())
    assert NETS.sizes(given, codes=7, heads=2) == SIZES
    with pytest.raises(UserError, match="width 16 and 2 blocks.*heads="):
        NETS.sizes(given, codes=7)
    with pytest.raises(UserError, match="has 14 embeddings: with 1000 classes that makes -988 cod"):
        NETS.sizes(given)
    assert HEADS[768, 24] == 16
    short = {k: v for k, v in given.tensors.items() if k != "bias"}
    with pytest.raises(UserError, match="do not fit this architecture: missing bias$"):
        NETS.at(place).restore(weights(tmp_path, short), SIZES)
    with pytest.raises(UserError, match="3 heads do not divide the width 16"):
        NETS.at(place).build(MaskGITSizes(16, 7, 3, 2, 3, 24, 5))


@pytest.mark.parametrize(
    ("codes", "classes", "said", "message"),
    [
        (1024, 1000, {}, None),
        (16384, 1000, {}, None),
        (
            16384,
            100,
            {},
            r"16486 .* 1000 classes that makes 15484 codes, .* say host.classes=",
        ),
        (16384, 100, {"classes": 100}, None),
        (1024, 10, {"classes": 5}, "with 5 classes that makes 1029 codes"),
        (17, 10, {"classes": 10}, "makes 17 codes, .* say host.classes= .and host.codes=.$"),
        (17, 10, {"codes": 17}, None),
        (17, 10, {"codes": 17, "classes": 10}, None),
        (17, 10, {"codes": 17, "classes": 5}, "29 embeddings: these are no 17 codes and 5 classes"),
        (17, 10, {"codes": 40}, "these are no 40 codes and -13 classes"),
    ],
)
def test_codes_and_classes_that_weights_do_not_tell_apart(
    codes: int, classes: int, said: dict[str, int], message: str | None
) -> None:
    rows = codes + classes + 2
    asked = (rows, said.get("codes"), said.get("classes"), "w.pth")
    if message is None:
        assert count(*asked) == (codes, classes)
        return
    with pytest.raises(UserError, match=message):
        count(*asked)


def test_student_of_a_student(root: Root, tmp_path: Path) -> None:
    place = root("maskgit")
    first = NETS.at(place).denoiser(SIZES, TOKEN)
    assert isinstance(first, MaskGITDenoiser)
    given = weights(tmp_path, first.network.state_dict())
    same = NETS.at(place).student(given, SIZES, {"name": "token", "blocks": None})
    for name, value in same.network.state_dict().items():
        assert torch.equal(value, given.tensors[name])
    other = NETS.at(place).student(given, SIZES, {"name": "adaln"})
    assert "latent_projection.0.weight" not in other.network.state_dict()
    assert "modulation.weight" in other.network.state_dict()
