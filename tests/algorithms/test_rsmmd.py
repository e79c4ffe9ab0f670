"""RS-MMD: its gradient against the expected reward's by enumeration, coins, and its options."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Batch, Update
from di4c_plugin.algorithms.rsmmd import RSMMD
from di4c_plugin.diffusion import Absorbing, Process
from di4c_plugin.errors import UserError
from di4c_plugin.losses.representation import reward, similarities
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.run import train
from tests.algorithms import tiny
from tests.algorithms.test_dmmd import PROCESSES
from tests.training import toy

NOISE = {"name": "mask_noise", "dim": 2, "std": 0.5}


def update(seed: int = 0) -> Update:
    return Update(torch.Generator().manual_seed(seed))


def networks(process: Process, latent: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "student": tiny.denoiser(process, latent, seed=1).eval(),
        "teacher": tiny.denoiser(process, seed=2).requires_grad_(False),
    }


def parameters(made: dict[str, Any]) -> list[Tensor]:
    return list(made["student"].parameters())


@pytest.mark.parametrize("latent", [None, NOISE], ids=["product", "mixture"])
@pytest.mark.parametrize("estimator", ["all_pairs", "candidates"])
@pytest.mark.parametrize("name", ["masked", "uniform", "confidence"])
def test_chunks_have_loss_and_gradients_of_whole_tensors(
    name: str, estimator: str, latent: dict[str, Any] | None
) -> None:
    process, found = PROCESSES[name], []
    made = networks(process, latent)
    for loss in ("chunked", "naive"):
        method = RSMMD(process, estimator=estimator, loss=loss, label_dropout=0.0)
        method.max_bytes = 12 * 8 * tiny.TOKENS * 3
        terms = method.losses(tiny.batch(4), made, update())
        gradients = torch.autograd.grad(terms.total, parameters(made), allow_unused=True)
        found.append((terms.total, terms.terms, gradients))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].keys() == {"reward", "entropy", "alpha"}
    assert any(g is not None and g.any() for g in found[0][2])


@pytest.mark.parametrize("latent", [None, NOISE], ids=["product", "mixture"])
def test_log_p_is_never_there_for_more_than_a_chunk(
    latent: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = tiny.masked()
    method, made = RSMMD(process), networks(process, latent)
    method.max_bytes = 12 * 8 * tiny.TOKENS * 2
    rows = tiny.rows_of_chunks(monkeypatch)
    method.losses(tiny.batch(6), made, update()).total.backward()
    assert len(rows) > 4
    assert max(rows) <= (2 if latent else 16)


def test_the_mean_gradient_is_the_expected_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs of fill-ins of two masks among six positions, by enumeration."""
    process = tiny.masked()
    made = networks(process)
    x_0 = tiny.batch(1).x_0
    at = [1, 4]
    x_t = x_0.clone()
    x_t[0, at] = tiny.MASK
    monkeypatch.setattr(process, "corrupt", lambda x, *_, **__: x_t.expand_as(x))
    method = RSMMD(process, candidates=3, fills=1, alpha=0.05, label_dropout=0.0)
    # By enumeration.
    pairs = torch.tensor(list(itertools.product(range(tiny.TOKENS - 1), repeat=2)))
    whole = x_0.repeat(len(pairs), 1)
    whole[:, at] = pairs
    log_p = made["student"](x_t, torch.ones(1).double())[0, at]
    p = (log_p[0, pairs[:, 0]] + log_p[1, pairs[:, 1]]).exp()
    real = method.features(made["teacher"], x_0[None], None)[0]
    features = method.features(made["teacher"], whole[None], None)[0][:, None]
    selected = x_t == tiny.MASK
    s = similarities(real, features, selected, 0.05, 1 << 30)
    a, c = s.a.sum(-1)[:, 0], s.c.sum(-1)[..., 0]
    expected = p @ a - p @ c @ p
    wanted = torch.autograd.grad(expected, parameters(made), allow_unused=True)
    flat = torch.cat([g.flatten() for g in wanted if g is not None])
    # By draws.
    found = []
    for seed in range(40):
        total = method.losses(Batch(x_0.repeat(60, 1)), made, update(seed)).total
        drawn = torch.autograd.grad(-total, parameters(made), allow_unused=True)
        found.append(torch.cat([g.flatten() for g in drawn if g is not None]))
    draws = torch.stack(found)
    random = torch.Generator().manual_seed(9)
    directions = torch.randn(len(flat), 8, generator=random, dtype=torch.float64)
    directions = torch.cat([flat[:, None] / flat.norm(), directions / len(flat) ** 0.5], 1)
    projected = draws @ directions
    error = projected.std(0) / len(draws) ** 0.5
    gap = (projected.mean(0) - flat @ directions).abs()
    assert (gap < 3 * error).all()
    assert flat.norm() > 5 * error[0], "and it is not zero within the error"


# ---- two identical bits


class Bits:
    """Two bits given their mask, as N equal cells of lambda; a table of logits (N, 2, 2)."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.requires_grad_()
        self.latent_shape = None if len(logits) == 1 else (1,)

    def __call__(self, x_t: Tensor, t: Tensor, *, latent: Tensor | None = None, **_: Any) -> Tensor:
        cell = torch.zeros(len(x_t)) if latent is None else latent[:, 0] * len(self.logits)
        return self.logits[cell.long()].log_softmax(-1)

    @property
    def law(self) -> Tensor:
        p = self.logits.detach().softmax(-1)
        return torch.einsum("na,nb->ab", p[:, 0], p[:, 1]) / len(p)


class OfPairs(RSMMD):
    """Features tell the four pairs of bits apart, and nothing else."""

    def features(self, teacher: Any, x: Tensor, cond: Tensor | None) -> Tensor:
        which = torch.nn.functional.one_hot(x[..., 0] * 2 + x[..., 1], 4).double()
        return which.unsqueeze(-2).expand(*x.shape, -1)


def trained(logits: Tensor, **options: Any) -> Bits:
    process = Absorbing(2)
    method = OfPairs(process, alpha=5.0, min_time=0.999, **options)
    student, generator = Bits(logits), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([student.logits], lr=0.03)
    made: Any = {"student": student, "teacher": None}
    for _ in range(500):
        bit = torch.randint(2, (64, 1), generator=generator)
        optimizer.zero_grad()
        method.losses(Batch(bit.expand(64, 2)), made, Update(generator)).total.backward()
        optimizer.step()
    return student


@pytest.mark.slow
def test_a_product_goes_to_one_mode_without_repulsion_and_keeps_both_with_it() -> None:
    start = torch.tensor([[[0.0, 0.2], [0.0, 0.2]]], dtype=torch.float64)
    without = trained(start.clone(), repulsion=0.0).law
    assert without[1, 1] > 0.95
    kept = trained(start.clone()).law
    assert 0.35 < kept[0].sum() < 0.65
    assert 0.35 < kept[:, 0].sum() < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["all_pairs", "candidates"])
def test_a_mixture_learns_that_the_bits_agree(estimator: str) -> None:
    random = torch.Generator().manual_seed(1)
    start = 0.3 * torch.randn(2, 2, 2, generator=random, dtype=torch.float64)
    law = trained(start, estimator=estimator).law
    assert law[0, 0] + law[1, 1] > 0.95
    assert 0.4 < law[0].sum() < 0.6


# ---- runs and options


def run(out: Path, *, latent: bool, resume: bool = False) -> Any:
    method = RSMMD(Absorbing(3), candidates=3, fills=1, blocks="blocks.*")
    start = toy.student("mask_noise") if latent else toy.teacher()
    config = TrainingConfig(steps=5, batch_size=3, checkpoint_every=2, log_every=1, logger="none")
    return train(
        method, start, toy.teacher(), toy.data(), config, out, resume=resume, progress=False
    )


@pytest.mark.parametrize("latent", [False, True])
def test_a_killed_run_goes_on_bit_for_bit(latent: bool, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", latent=latent)
    step = TrainingModule.optimizer_step

    def killed(self: TrainingModule, *arguments: Any, **keywords: Any) -> None:
        if self.trainer.global_step == 3:
            raise KeyboardInterrupt
        step(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "optimizer_step", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011  as Lightning ends it
            run(tmp_path / "broken", latent=latent)
    resumed = run(tmp_path / "broken", latent=latent, resume=True)
    assert toy.same(toy.weights(whole), toy.weights(resumed))
    assert whole.sampling == {"latents": "fresh"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "x"}, "unknown estimator 'x'; there are all_pairs, candidates"),
        ({"loss": "x"}, "unknown loss 'x'; there are auto, naive, chunked"),
        ({"candidates": 1}, "candidates times fills must be at least 3"),
        ({"candidates": 0}, "candidates times fills must be at least 3"),
        ({"estimator": "candidates", "fills": 1}, "estimator=candidates needs 2 candidates of 2"),
        ({"estimator": "candidates", "radius": 2}, "radius must be at least 0, and goes with"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"repulsion": -1.0}, "repulsion must be at least 0, alpha above 0"),
        ({"alpha": 0.0}, "repulsion must be at least 0, alpha above 0"),
        ({"min_time": 1.0}, r"min_time must be in \(0, 1\), not 1.0"),
        ({"loss_mb": 0}, "loss_mb must be at least 1, not 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        RSMMD(Absorbing(3), **options)


def test_a_teacher_with_a_latent_is_to_be_the_start() -> None:
    process = tiny.masked()
    made = networks(process) | {"teacher": tiny.denoiser(process, NOISE)}
    with pytest.raises(UserError, match="^this teacher takes a latent: name it as the student"):
        RSMMD(process).losses(tiny.batch(2), made, update())


def test_without_an_open_position_the_loss_is_zero_and_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = tiny.masked()
    monkeypatch.setattr(process, "corrupt", lambda x, *_, **__: x)
    total = RSMMD(process).losses(tiny.batch(2), networks(process), update()).total
    assert total.item() == 0
    total.backward()


def test_the_reward_that_is_logged_is_of_all_fill_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    process = tiny.masked()
    made, method = networks(process), RSMMD(process, repulsion=0.5, label_dropout=0.0)
    seen: list[Any] = []
    inner = method._similarities

    def watched(*arguments: Any) -> Any:
        seen.append(inner(*arguments))
        return seen[-1]

    monkeypatch.setattr(method, "_similarities", watched)
    terms = method.losses(tiny.batch(3), made, update()).terms
    torch.testing.assert_close(terms["reward"], reward(seen[0][0], 0.5).mean())
