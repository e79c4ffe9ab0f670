from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model, student_of
from di4c_plugin.networks import Transformer, TransformerConfig
from di4c_plugin.networks.latent import LATENTS, LatentInjector, draw_latents, sinusoid

MASK = 5
CONFIG = TransformerConfig(
    num_tokens=5,
    num_states=6,
    grid=(2, 4),
    patch=(1, 2),
    hidden_size=16,
    embedding_size=4,
    num_blocks=2,
    num_heads=2,
    mask=MASK,
)
X_T = torch.tensor([[0, 1, 2, 3, MASK, MASK, MASK, MASK]])
TIME = torch.tensor([0.5], dtype=torch.float64)
every_latent = pytest.mark.parametrize("name", sorted(LATENTS))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw(
    shape: tuple[int, ...], n: int, batch: int, generator: torch.Generator, **options: Any
) -> Tensor:
    cpu = torch.device("cpu")
    return draw_latents(shape, n, batch, generator=generator, device=cpu, **options)


def student_and_teacher(**latent: Any) -> tuple[Tensor, Tensor]:
    """Both log p_{0|t} at the masked positions, of a student that starts from the teacher."""
    teacher = new_model(CONFIG, Absorbing(5))
    student = student_of(teacher, latent).denoiser
    assert student.latent_shape is not None
    lam = torch.rand(1, *student.latent_shape)
    return student(X_T, TIME, latent=lam)[:, 4:], teacher.denoiser(X_T, TIME)[:, 4:]


@pytest.mark.parametrize("name", ["adaln", "mask_noise", "pyramid_noise", "stream_noise"])
def test_a_silent_injector_leaves_the_teacher(name: str) -> None:
    assert torch.equal(*student_and_teacher(name=name, std=0.0))


@every_latent
def test_a_new_student_is_near_the_teacher_but_not_at_it(name: str) -> None:
    log_p, log_q = student_and_teacher(name=name)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    loud = name.startswith(("stream", "pyramid"))  # which D-MMD needs at the start
    assert kl.max() < (0.1 if loud else 0.05)
    assert kl.min() > 1e-9


@every_latent
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_another_lambda_gives_another_prediction(name: str, dim: int) -> None:
    injector = LATENTS[name](CONFIG, dim=dim)
    network = Transformer(CONFIG)
    network.let_in(injector)
    lam = torch.rand(2, 1, *injector.latent_shape)
    one, other = (network(X_T, TIME, latent=latent) for latent in lam)
    assert one.shape == (1, 8, 5)
    assert (one != other).any(-1).all()


@every_latent
def test_each_example_gets_its_own_lambda(name: str) -> None:
    denoiser = new_model(CONFIG, Absorbing(5), {"name": name}).denoiser.double()
    lam = torch.rand(3, *denoiser.latent_shape or ())
    together = denoiser(X_T.repeat(3, 1), TIME.repeat(3), latent=lam)
    alone = torch.cat([denoiser(X_T, TIME, latent=one) for one in lam.split(1)])
    torch.testing.assert_close(together, alone)


@every_latent
def test_gradients_reach_the_injector(name: str) -> None:
    model = new_model(CONFIG, Absorbing(5), {"name": name})
    lam = torch.rand(1, *model.denoiser.latent_shape or ())
    model.denoiser(X_T, TIME, latent=lam)[:, 4:, 0].sum().backward()
    injector = model.denoiser.network.latent
    assert isinstance(injector, LatentInjector)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in injector.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_adaln_scales_and_shifts_each_norm_by_its_own(autocast: bool) -> None:
    """From the layer's own output, in exact numbers: norm, then gamma and beta, then H."""
    injector = LATENTS["adaln"](CONFIG, std=0.5)
    lam, h = torch.rand(3, 1), torch.randn(3, 4, 16)
    layer: Any = injector.modulation
    maps = layer(sinusoid(lam, 128)).view(3, CONFIG.num_norms, 2, 1, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        code = injector.encode(lam)
        for i in range(CONFIG.num_norms):
            want = h * (1 + maps[:, i, 0]) + maps[:, i, 1]
            torch.testing.assert_close(injector.on_norm(h, code, i), want)


def test_mask_noise_moves_only_unknown_positions() -> None:
    injector = LATENTS["mask_noise"](CONFIG)
    e, lam = torch.randn(1, 8, 4), torch.rand(1, *injector.latent_shape)
    moved = (injector.on_embedding(e, injector.encode(lam), X_T == MASK) != e).any(-1)
    assert torch.equal(moved, X_T == MASK)


def test_mask_noise_is_gaussian_with_the_asked_deviation(generator: torch.Generator) -> None:
    injector = LATENTS["mask_noise"](CONFIG, dim=64, std=0.3)
    noise = injector.encode(draw(injector.latent_shape, 1, 2000, generator)[0])
    assert noise.mean().abs() < 0.01
    assert noise.std().item() == pytest.approx(0.3, rel=0.2)


@pytest.mark.parametrize("name", ["stream_noise", "pyramid_noise"])
def test_stream_noise_moves_every_row_but_those_without_a_position(name: str) -> None:
    injector = LATENTS[name](CONFIG)
    h, lam = torch.randn(1, 5, 16), torch.rand(1, *injector.latent_shape)
    code = injector.encode(lam)
    moved = injector.on_sequence(h, code)
    assert torch.equal(moved[:, :4], h[:, :4] + code)
    assert torch.equal(moved[:, 4:], h[:, 4:])


@pytest.mark.parametrize("name", ["stream_noise", "pyramid_noise"])
def test_stream_noise_is_gaussian_with_the_asked_deviation(
    name: str, generator: torch.Generator
) -> None:
    injector = LATENTS[name](CONFIG, dim=64, std=0.3)
    noise = injector.encode(draw(injector.latent_shape, 1, 2000, generator)[0])
    assert noise.shape == (2000, 4, 16)
    assert noise.mean().abs() < 0.01
    assert noise.std().item() == pytest.approx(0.3, rel=0.2)


@pytest.mark.parametrize("name", ["mask_noise", "stream_noise", "pyramid_noise"])
def test_noise_of_the_first_positions_is_that_of_all_cut(name: str) -> None:
    """And only these are projected: networks have more positions than texts have tokens."""
    injector = LATENTS[name](replace(CONFIG, patch=(1, 1)))
    lam, shapes = torch.rand(3, *injector.latent_shape), []
    layer: Any = injector.projection
    layer.register_forward_hook(lambda module, args, noise: shapes.append(noise.shape[:2]))
    whole, first = injector.encode(lam), injector.encode_first(lam, 5)
    assert torch.equal(first, whole[:, :5])
    assert shapes == [(3, 8), (3, 5)]


@every_latent
def test_a_code_enters_a_sequence_shorter_than_the_networks(name: str) -> None:
    injector = LATENTS[name](replace(CONFIG, patch=(1, 1)))
    h, lam = torch.randn(2, 8, 16), torch.rand(2, *injector.latent_shape)
    code = injector.encode(lam)
    short = injector.on_output(injector.on_sequence(h[:, :5], code))
    assert torch.equal(short, injector.on_output(injector.on_sequence(h, code))[:, :5])


@pytest.mark.parametrize(
    ("grid", "cells"), [((8, 8), 64 + 16 + 4 + 1), ((5, 3), 15 + 6 + 2 + 1), ((1, 4), 4 + 2 + 1)]
)
def test_rows_of_a_pyramid_share_as_much_as_they_are_near(
    grid: tuple[int, int], cells: int, generator: torch.Generator
) -> None:
    """z of two rows has as its covariance the share of the levels at which one cell holds both."""
    height, width = grid
    config = replace(CONFIG, grid=grid, patch=(1, 1))
    injector = LATENTS["pyramid_noise"](config, dim=1, grid=grid)
    assert injector.latent_shape == (cells, 1)
    layer: Any = injector.projection
    layer.weight.data = torch.ones_like(layer.weight)
    z = injector.encode(draw(injector.latent_shape, 1, 40_000, generator)[0])[..., 0]
    at = [(i // width, i % width) for i in range(height * width)]
    levels = 1 + next(n for n in range(9) if 2**n >= max(grid))
    wanted = torch.tensor(
        [
            [sum((a >> k, b >> k) == (c >> k, d >> k) for k in range(levels)) for c, d in at]
            for a, b in at
        ]
    )
    assert (z.T @ z / len(z) - wanted / levels).abs().max() < 0.03


def test_a_pyramid_is_of_a_square_or_a_row() -> None:
    def rows(size: tuple[int, int], **options: Any) -> int:
        config = replace(CONFIG, grid=size, patch=(1, 1))
        return LATENTS["pyramid_noise"](config, **options).latent_shape[0]

    assert rows((4, 4)) == rows((2, 8), grid=(4, 4)) == 16 + 4 + 1
    assert rows((2, 3)) == 6 + 3 + 2 + 1
    with pytest.raises(
        UserError, match=r"^latent.grid: the residual stream has 6 rows, not \[2, 2\]$"
    ):
        rows((2, 3), grid=(2, 2))


def test_the_token_is_appended_and_dropped() -> None:
    injector = LATENTS["token"](CONFIG)
    h, token = torch.randn(1, 4, 16), injector.encode(torch.rand(1, 1))
    longer = injector.on_sequence(h, token)
    assert torch.equal(longer, torch.cat([h, token], 1))
    assert torch.equal(injector.on_output(longer), h)


class Spy(LatentInjector):
    """Writes down which door is called."""

    latent_shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def encode(self, latent: Tensor) -> Tensor:
        self.calls.append("encode")
        return latent

    def on_embedding(self, e: Tensor, code: Tensor, active: Tensor) -> Tensor:
        assert e.shape == (1, 8, 4)
        assert torch.equal(active, X_T == MASK)
        self.calls.append("embedding")
        return e

    def on_sequence(self, h: Tensor, code: Tensor) -> Tensor:
        assert h.shape == (1, 4, 16)
        self.calls.append("sequence")
        return h

    def on_norm(self, h: Tensor, code: Tensor, layer: int) -> Tensor:
        self.calls.append(f"norm {layer}")
        return h

    def on_output(self, h: Tensor) -> Tensor:
        self.calls.append("output")
        return h


def test_each_door_is_called_once_in_order() -> None:
    spy = Spy()
    network = Transformer(CONFIG)
    network.let_in(spy)
    network(X_T, TIME, latent=torch.rand(1, 1))
    norms = [f"norm {layer}" for layer in range(CONFIG.num_norms)]
    assert spy.calls == ["encode", "embedding", "sequence", *norms, "output"]


def test_latents_are_uniform(generator: torch.Generator) -> None:
    lam = draw((2,), 100, 500, generator)
    assert lam.shape == (100, 500, 2)
    assert lam.dtype == torch.float32
    assert lam.min() >= 0
    assert lam.max() < 1
    counts = torch.histc(lam, 10, 0, 1)
    assert (counts - 10_000).abs().max() < 4 * (10_000 * 0.9) ** 0.5


def test_strata_are_hit_once_each(generator: torch.Generator) -> None:
    """For each example and coordinate on its own: a Latin hypercube."""
    lam = draw((3,), 16, 50, generator, stratified=True)
    strata = (lam * 16).long().sort(0).values
    assert torch.equal(strata, torch.arange(16).view(-1, 1, 1).expand(-1, 50, 3))


def test_strata_are_paired_at_random(generator: torch.Generator) -> None:
    x, y = draw((2,), 16, 5000, generator, stratified=True).unbind(-1)
    together = torch.bincount(((x * 16).long() * 16 + (y * 16).long()).flatten(), minlength=256)
    assert (together - 312.5).abs().max() < 4.5 * 312.5**0.5


def test_every_stratified_lambda_is_uniform(generator: torch.Generator) -> None:
    first = draw((1,), 4, 40_000, generator, stratified=True)[0]
    counts = torch.histc(first, 10, 0, 1)
    assert (counts - 4000).abs().max() < 4 * (4000 * 0.9) ** 0.5


def test_stratified_means_are_unbiased_and_less_noisy(generator: torch.Generator) -> None:
    """E[lambda^2] = 1/3; strata lower the variance of its mean over 16 draws a hundredfold."""
    plain, even = (
        draw((1,), 16, 20_000, generator, stratified=stratified).pow(2).double().mean(0)
        for stratified in (False, True)
    )
    assert even.mean().item() == pytest.approx(1 / 3, abs=3 * even.std().item() / 20_000**0.5)
    assert even.var() < plain.var() / 100


def test_equal_generators_draw_equal_latents(generator: torch.Generator) -> None:
    one, two = (draw((1,), 4, 4, generator.manual_seed(3), stratified=True) for _ in range(2))
    assert torch.equal(one, two)


def test_sinusoid_is_that_of_a_time_step() -> None:
    """As for diffusion times: 1000 lambda over wave lengths from 2 pi to 2 pi 10^4."""
    lam = torch.tensor([[0.0], [0.37], [0.999]])
    frequency = 10.0 ** (-4 * torch.arange(64, dtype=torch.float64) / 63)
    angle = 1000 * lam.double() * frequency
    want = torch.cat([angle.sin(), angle.cos()], -1)
    torch.testing.assert_close(sinusoid(lam, 128).double(), want, atol=3e-4, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_sinusoid_has_the_asked_size(k: int) -> None:
    assert sinusoid(torch.rand(5, k), 128).shape == (5, 128)


def test_sinusoid_tells_near_lambdas_apart() -> None:
    one, two = sinusoid(torch.tensor([[0.5], [0.501]]), 128)
    assert (one - two).norm() > 0.5
