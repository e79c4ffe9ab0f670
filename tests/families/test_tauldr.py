"""tauLDR's U-Net with and without a latent, against the host's model and the official formula."""

import copy
import math
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from di4c_plugin.checkpoints.weights import Weights
from di4c_plugin.errors import UserError
from di4c_plugin.families.importing import host_module
from di4c_plugin.families.tauldr import (
    RELEASED,
    TauLDRSizes,
    sizes_of_config,
)
from di4c_plugin.families.unet_latent import let_latent_in, residual_blocks
from di4c_plugin.families.unet_sizes import layout_of
from tests.stand_ins.images.checkouts import Root
from tests.stand_ins.images.small_maskgit import LAM, as_weights
from tests.stand_ins.images.small_tauldr import (
    CONFIG,
    LAYOUT,
    NETS,
    SIZES,
    E,
    S,
    T,
    X,
    log_p_of,
    plain,
    small,
)

UNET = {"name": "unet"}


def features(v: Tensor) -> Tensor:
    """Sinusoids of (B,), as everybody writes them."""
    angle = v.float()[:, None] * 1000 * torch.exp(torch.arange(8) * (-math.log(10000) / 7))
    return torch.cat([angle.sin(), angle.cos()], 1)


@torch.no_grad()
def test_teacher_is_the_hosts_network(root: Root) -> None:
    place = root("tauldr")
    network = plain(place)
    teacher = NETS.at(place).restore(as_weights(network), SIZES)
    found = teacher(X, T)
    assert found.shape == (2, 48, S)
    expected = log_p_of(network(X.view(2, 3, 4, 4), T.float()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    assert teacher.process.config["name"] == "gaussian"


@torch.no_grad()
def test_official_student(root: Root) -> None:
    place = root("tauldr")
    student = NETS.at(place).student(as_weights(plain(place)), SIZES, UNET).eval()
    small(student.network)
    parts: Any = student.network
    new = student.network.state_dict().keys() - plain(place).state_dict().keys()
    blocks = len(residual_blocks(parts))
    assert len(new) == 12 + 2 * blocks
    assert {name.split(".")[0] for name in new if "dense1" not in name} == {
        *("lemb_modules", "hlemb_modules", "tlam_mix", "h_t_lam_mix")
    }
    expected = by_hand(plain(place), parts)
    out = parts(X.float().view(2, 3, 4, 4), T.float(), latent=LAM)
    # The features of lambda and t here round the angle another way: 1000 rad is 6e-5 wide.
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    found = student(X, T, latent=LAM)
    torch.testing.assert_close(found, log_p_of(out), atol=1e-6, rtol=0)
    # The student's file, read back.
    again = replace(as_weights(student.network), latent=UNET)
    restored = NETS.at(place).restore(again, SIZES)
    assert torch.equal(restored(X, T, latent=LAM), found)


def by_hand(network: Any, parts: Any) -> Tensor:
    """The official formula, by an untouched network with features shifted after `dense0`'s part."""
    network.load_state_dict({k: parts.state_dict()[k] for k in network.state_dict()})
    known = torch.cat([features(LAM[:, 0]), features(T)], 1)

    def embedding(mix: Any, layers: Any, seen: Tensor) -> Tensor:
        return silu(layers[1](silu(layers[0](silu(mix(seen))))))

    def shift(name: str, code: Tensor) -> None:
        for path, block in network.named_modules():
            if path.startswith(name) and hasattr(block, "dense0"):
                more = parts.get_submodule(path).dense1(code)[:, :, None, None]
                block.groupnorm1.register_forward_pre_hook(lambda m, a, more=more: (a[0] + more,))

    shift("downsampling", embedding(parts.tlam_mix, parts.lemb_modules, known))
    middle: list[Tensor] = []
    network.middle_modules[0].register_forward_pre_hook(lambda m, a: middle.append(a[0]))
    network(X.view(2, 3, 4, 4), T.float())
    seen = torch.cat([known, middle[0].mean((2, 3))], 1)
    code = embedding(parts.h_t_lam_mix, parts.hlemb_modules, seen)
    shift("middle", code)
    shift("upsampling", code)
    return network(X.view(2, 3, 4, 4), T.float())


@torch.no_grad()
def test_many_latents_for_a_row(root: Root) -> None:
    place = root("tauldr")
    student = NETS.at(place).denoiser(SIZES, UNET).eval()
    small(student.network)
    assert student.latent_shape == (1,)
    lam = torch.rand(6, 1)
    many = student(X, T, latent=lam)
    for n in range(3):
        one = student(X, T, latent=lam[2 * n : 2 * n + 2])
        torch.testing.assert_close(many[2 * n : 2 * n + 2], one, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(many[:2], many[2:4])
    assert student(X, T).shape == (2, 48, S)  # lambda is drawn
    with pytest.raises(UserError, match="3 latents for 2 examples"):
        student(X, T, latent=lam[:3])


@torch.no_grad()
def test_start_is_near_the_teacher(root: Root) -> None:
    place = root("tauldr")
    weights = as_weights(plain(place))
    teacher = NETS.at(place).restore(weights, SIZES)(X, T)
    same = NETS.at(place).student(weights, SIZES, UNET | {"std": 0.0}).eval()
    torch.testing.assert_close(same(X, T, latent=LAM), teacher, atol=1e-6, rtol=1e-6)
    student = NETS.at(place).student(weights, SIZES, UNET).eval()
    added: list[Tensor] = []
    for block in residual_blocks(student.network):
        block.dense1.register_forward_hook(lambda m, a, y: added.append(y))
    student(X, T, latent=torch.rand(64, 1))
    assert 0.03 < float(torch.cat([y.flatten() for y in added]).std()) < 0.3


def test_gradients_reach_the_latent(root: Root) -> None:
    student = NETS.at(root("tauldr")).denoiser(SIZES, UNET)
    small(student.network)
    student(X, T, latent=LAM)[:, 5, 1].sum().backward()
    assert (
        not {n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()}
        - {
            "network.middle_modules.1.NIN_0.b"  # attention does not see it
        }
        - {n for n, _ in student.named_parameters() if "NIN" in n}
    )


@torch.no_grad()
def test_copy_and_modes(root: Root) -> None:
    student = NETS.at(root("tauldr")).denoiser(SIZES, UNET)
    small(student.network)
    for mode in (True, True, False, False):  # the host's model refuses the same mode twice
        student.train(mode)
    before = student(X, T, latent=LAM)
    other = copy.deepcopy(student)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    changed = other(X, T, latent=LAM)
    assert torch.equal(before, student(X, T, latent=LAM))
    assert not torch.equal(changed, before)
    student.train()
    assert not torch.equal(before, student(X, T, latent=LAM))


def test_sizes(root: Root) -> None:
    place = root("tauldr")
    network = NETS.at(place).denoiser(SIZES, UNET).network
    for attention in (-1, 0, 1):
        layout = replace(LAYOUT, attention=attention, widths=(1, 2, 1), blocks=2)
        other = NETS.at(place).build(TauLDRSizes(layout, shape=(3, 8, 8)))
        assert layout_of(other.state_dict()) == layout
    weights = as_weights(network)
    assert NETS.sizes(weights, config=CONFIG) == SIZES
    with pytest.raises(UserError, match=r"does not say its levels.*config_001.yaml"):
        NETS.sizes(weights)
    model = {k: v for k, v in CONFIG["model"].items() if k != "Q_sigma"}
    with pytest.raises(UserError, match="the config of a network says no 'Q_sigma'"):
        sizes_of_config(CONFIG | {"model": model}, LAYOUT, "a network")


def test_bad_input(root: Root) -> None:
    place = root("tauldr")
    teacher = NETS.at(place).denoiser(SIZES)
    with pytest.raises(UserError, match="takes no labels"):
        teacher(X, T, cond=torch.tensor([0, 1]))
    with pytest.raises(UserError, match="x has 40 positions: this network has 3 x 4 x 4"):
        teacher(X[:, :40], T)
    with pytest.raises(UserError, match=r"levels of a pixel are 0 ... 16 here"):
        teacher(X + 1, T)
    for latent, message in (
        ({"name": "adaln"}, "takes the latent 'unet'"),
        (UNET | {"blocks": 2}, "blocks=null"),
        (UNET | {"dim": 2}, "got an unexpected keyword argument 'dim'; it takes std"),
    ):
        with pytest.raises(UserError, match=message):
            NETS.at(place).denoiser(SIZES, latent)
    with pytest.raises(UserError, match="sides that are multiples of 2"):
        NETS.at(place).build(replace(SIZES, shape=(3, 5, 5)))
    with pytest.raises(UserError, match="17 levels"):
        NETS.at(place).denoiser(SIZES, process={"name": "gaussian", "num_tokens": 16})
    with pytest.raises(UserError, match="is of MaskGIT-pytorch v1"):
        NETS.check(["first_layer.0.weight"], "x.pt")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host's module of models; it imports an unused name of tkinter."""
    monkeypatch.setitem(sys.modules, "tkinter", ModuleType("tkinter"))
    monkeypatch.setattr(sys.modules["tkinter"], "Image", None, raising=False)
    try:
        return host_module("tauldr", "lib.models.models")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.host
@torch.no_grad()
@pytest.mark.parametrize("fix", [False, True])
def test_hosts_model(models: Any, fix: bool) -> None:
    model = SimpleNamespace(**CONFIG["model"], ema_decay=0.9, ch=8, num_res_blocks=1)
    model.num_scales, model.ch_mult, model.input_channels, model.time_embed_dim = 2, [1, 2], 3, E
    model.scale_count_to_put_attn, model.fix_logistic = 1, fix
    data = SimpleNamespace(**CONFIG["data"])
    config = SimpleNamespace(model=model, data=data, distributed=False)
    host = models.GaussianTargetRateImageX0PredEMA(config, "cpu")
    host.net.eval()
    small(host.net)
    sizes = replace(SIZES, fix_logistic=fix)
    teacher = NETS.restore(as_weights(host.net), sizes)
    expected = host(X, T.float()).log_softmax(-1)
    torch.testing.assert_close(teacher(X, T), expected, atol=1e-5, rtol=1e-6)
    q = host.transition(T.float())
    ours = teacher.process.transition(torch.zeros_like(T), T).float()
    torch.testing.assert_close(ours, q, atol=1e-5, rtol=0)


@pytest.mark.host
def test_released_size(real_root: Root) -> None:
    with torch.device("meta"):
        network = NETS.at(real_root("tauldr")).build(TauLDRSizes(RELEASED))
    let_latent_in(network, UNET)
    assert layout_of(network.state_dict()) == RELEASED
    assert len(network.state_dict()) == 384
    assert round(sum(p.numel() for p in network.parameters()) / 1e4) == 3907
    weights = Weights(network.state_dict(), None, {}, None, "a network", "")
    assert NETS.sizes(weights) == TauLDRSizes(RELEASED)
