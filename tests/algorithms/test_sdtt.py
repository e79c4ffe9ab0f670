"""SDTT's targets by enumeration of the teacher's steps, its loss and its options."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms import sdtt
from di4c_plugin.algorithms.base import Batch, Networks, Update
from di4c_plugin.algorithms.noising import drawn_latent
from di4c_plugin.algorithms.sdtt import DCD, SDTT, coupled, rounds_between
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.divergences import DIVERGENCES
from di4c_plugin.networks.denoiser import NetworkDenoiser
from tests.algorithms import tiny
from tests.algorithms.test_dmmd import PROCESSES, config_for
from tests.enumeration import TableDenoiser, assert_drawn_from, rank, relative_entropy, states

NOISE = {"name": "mask_noise", "dim": 2, "std": 0.5}


def update(method: SDTT, round_index: int = 0, seed: int = 0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return Update(generator, round_index, method.rounds, round_index, method.rounds)


def method(process: Process, **options: Any) -> SDTT:
    said: dict[str, Any] = {"teacher_steps": 4, "steps": 2, "label_dropout": 0.0}
    return SDTT(process, **said | options)


def networks(
    process: Process, latent: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None
) -> dict[str, NetworkDenoiser]:
    config = config_for(process)
    return {
        "student": tiny.denoiser(process, latent, seed=1, config=config),
        "teacher": tiny.denoiser(process, teacher, seed=2, config=config).requires_grad_(False),
    }


# ---- the target


class Known:
    """A student that is a table of logits, the same at every time."""

    def __init__(self, process: Process, logits: Tensor) -> None:
        self.process, self.logits = process, logits

    def __call__(self, x_t: Tensor, t: Tensor, **_: Any) -> Tensor:
        log_p = self.logits[rank(x_t, self.process.num_states)].log_softmax(-1)
        return self.process.carry_over(log_p, x_t)


def mean_target(
    process: Process, teacher: TableDenoiser, x_t: Tensor, times: list[float], delta: float
) -> Tensor:
    """E[q] (D, S) over all ways of the teacher's steps, one state after the other."""
    length = len(x_t)
    space = states(process.num_states, length)
    kernels = [teacher.kernels(t, max(t - delta, 0.0))[0] for t in times[:-1]]
    mean = torch.zeros(length, process.num_tokens, dtype=torch.float64)
    first = int(rank(x_t, process.num_states))
    for path in itertools.product(range(len(space)), repeat=len(kernels)):
        visited = [first, *path]
        chance = 1.0
        for kernel, (one, next_one) in zip(kernels, itertools.pairwise(visited), strict=True):
            chance *= float(kernel[one, next_one])
        if chance == 0:
            continue
        for d in range(length):
            q = torch.zeros(process.num_tokens, dtype=torch.float64)
            for place, t in zip(visited, times, strict=True):
                x = space[place : place + 1]
                if process.active(x)[0, d]:
                    q = teacher(x, torch.tensor([t]).double())[0, d].exp()
            mean[d] += chance * q
    return mean


@pytest.mark.parametrize("substeps", [2, 3])
@pytest.mark.parametrize("process", [Absorbing(2), Uniform(2)], ids=["masked", "uniform"])
def test_the_target_is_that_of_the_teachers_steps_by_enumeration(
    process: Process, substeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of KL(q || p) in the logits is p - q: its mean over draws shows E[q]."""
    teacher = TableDenoiser(process, 2, seed=5)
    count = 40_000
    x_t = (
        states(process.num_states, 2)[-1]
        if isinstance(process, Absorbing)
        else torch.tensor([0, 1])
    )
    monkeypatch.setattr(
        sdtt, "low_discrepancy_times", lambda n, *_: torch.full((n,), 0.8, dtype=torch.float64)
    )
    monkeypatch.setattr(process, "corrupt", lambda x_0, *_, **__: x_t.expand_as(x_0))
    logits = torch.randn(
        process.num_states**2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).requires_grad_()
    chosen = method(
        process, teacher_steps=4 * substeps, steps=4, substeps=substeps, divergence="kl"
    )
    made: Any = {"student": Known(process, logits), "teacher": teacher}
    total = chosen.losses(
        Batch(torch.zeros(count, 2, dtype=torch.int64)), made, update(chosen)
    ).total
    (found,) = torch.autograd.grad(total, logits)
    at = rank(x_t, process.num_states)
    seen = logits[at].softmax(-1) - found[at]
    delta = 1 / (4 * substeps)
    times = [0.8 - i * delta for i in range(substeps)]
    wanted = mean_target(process, teacher, x_t, times, delta)
    assert (seen - wanted).abs().max() < 4 * 0.5 / count**0.5
    first_only = mean_target(process, teacher, x_t, times[:1], delta)
    assert (wanted - first_only).abs().max() > 0.03, "a target of one step would pass"


# ---- the loss


def rewritten(chosen: SDTT, made: Networks, batch: Batch, round_index: int, seed: int) -> Tensor:
    """The loss of whole tensors, by the process itself, with the same draws."""
    process, generator = chosen.process, torch.Generator().manual_seed(seed)
    t, times = chosen._times(len(batch.x_0), Update(generator, round=round_index))
    x_t = x = process.corrupt(batch.x_0, t, generator=generator)
    active = process.active(x_t)

    def noise(network: Any) -> Any:
        if network.latent_shape is None:
            return None
        return drawn_latent(network, 1, len(x_t), generator)[0]  # type: ignore[index]

    lam = noise(made["student"])
    log_p = made["student"](x_t, t, latent=lam)
    shape = getattr(made["teacher"], "latent_shape", None)
    delta, q = chosen.delta(round_index), torch.zeros_like(log_p)
    for i, u in enumerate(times):
        own = lam if i == 0 and lam is not None and shape else None
        latent = own if own is not None else noise(made["teacher"])
        with torch.no_grad():
            log_q = made["teacher"](x, u, latent=latent)
        for b in range(len(x)):
            if i == 0 or t[b] - i * delta > 1e-9:
                here = process.active(x)[b]
                q[b][here] = log_q[b][here]
        if i + 1 < len(times):
            chance = process.step_noise((1, *x.shape), generator=generator, device=x.device)
            x = process.step_by(chance[:, 0], log_q, x, u, (u - delta).clamp(min=0))
    values = DIVERGENCES[chosen.divergence](log_p, q)[active]
    return values.mean() * x.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("latents", ["none", "student", "both"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("name", PROCESSES)
def test_the_loss_and_its_gradients_are_those_of_whole_tensors(
    name: str, divergence: str, latents: str
) -> None:
    process = PROCESSES[name]
    made = networks(
        process,
        None if latents == "none" else NOISE,
        NOISE if latents == "both" else None,
    )
    student = made["student"].eval()
    for loss in ("auto", "naive"):
        chosen = method(process, divergence=divergence, loss=loss, teacher_steps=8)
        chosen.max_bytes = 12 * 2 * tiny.TOKENS * 4  # four positions a chunk
        for round_index in (0, 1):
            batch = tiny.batch(4)
            total = chosen.losses(batch, made, update(chosen, round_index, seed=7)).total
            found = torch.autograd.grad(total, list(student.parameters()), allow_unused=True)
            wanted = rewritten(chosen, made, batch, round_index, 7)
            expected = torch.autograd.grad(wanted, list(student.parameters()), allow_unused=True)
            torch.testing.assert_close(total, wanted)
            for one, other in zip(found, expected, strict=True):
                if other is not None and other.any():
                    torch.testing.assert_close(one, other)


def test_log_p_is_never_there_for_more_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    process = tiny.masked()
    chosen, made = method(process), networks(process, NOISE)
    chosen.max_bytes = 12 * 2 * tiny.TOKENS * 3  # three positions of student and teacher
    rows = tiny.rows_of_chunks(monkeypatch)
    chosen.losses(tiny.batch(6), made, update(chosen)).total.backward()
    assert len(rows) > 6
    assert max(rows) <= 6, "of the teacher's step alone"


@pytest.mark.parametrize("times", ["even", "grid", "released"])
def test_the_steps_of_a_round(times: str) -> None:
    chosen = method(Absorbing(3), teacher_steps=32, steps=4, times=times, min_time=1e-4)
    assert chosen.rounds == 3
    for round_index in range(3):
        t, starts = chosen._times(400, update(chosen, round_index))
        assert starts.shape == (2, 400)
        whole = 1 - 1e-4 if times == "released" else 1.0
        delta = whole * 2.0**round_index / 32
        assert chosen.delta(round_index) == delta
        assert t.min() >= 1e-4
        assert t.max() <= 1
        if times == "grid":
            assert set((t / (2 * delta)).tolist()) == set(range(1, round(1 / (2 * delta)) + 1))
        expected = torch.stack([t, t - delta])
        if times == "released":
            start = (1 - t) * (t - 2 * delta)
            expected = torch.stack([t + start, start])
        torch.testing.assert_close(starts, expected.clamp(min=1e-4))


def test_without_an_open_position_the_loss_is_zero_and_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = tiny.masked()
    monkeypatch.setattr(process, "corrupt", lambda x_0, *_, **__: x_0)
    made = networks(process)
    total = method(process).losses(tiny.batch(2), made, update(method(process))).total
    assert total.item() == 0
    total.backward()


# ---- Duo's trajectories


def test_coupled_states_are_those_of_one_gaussian() -> None:
    """argmax(a x_0 + epsilon) at two signal-to-noise ratios, drawn as Duo does."""
    tokens, draws = 3, 60_000
    random = torch.Generator().manual_seed(0)
    a = torch.tensor([0.7, 1.8], dtype=torch.float64)  # of t and of s
    epsilon = torch.randn(draws, tokens, generator=random, dtype=torch.float64)
    x_0 = torch.ones(draws, dtype=torch.int64)
    hot = torch.nn.functional.one_hot(x_0, tokens)
    pair = torch.stack([(r * hot + epsilon).argmax(-1) for r in a])
    law = torch.bincount(pair[0] * tokens + pair[1], minlength=9).double() / draws
    # The process with these shares of kept tokens.
    kept = [(pair[i] == 1).double().mean() for i in (0, 1)]
    alpha = [(k - 1 / tokens) / (1 - 1 / tokens) for k in kept]
    process = Uniform(tokens)
    t, s = (torch.full((draws,), float(1 - x)).double() for x in alpha)
    assert torch.allclose(process.schedule.alpha(t[:1]), alpha[0], atol=2e-3)
    x_t, x_s = coupled(process, x_0[:, None], t, s, random)
    drawn = torch.bincount((x_t * tokens + x_s).flatten(), minlength=9).double() / draws
    assert (drawn - law).abs().max() < 4 * (0.25 / draws) ** 0.5 * 1.5
    assert (drawn[[2, 6]] == 0).all(), "two different wrong tokens"
    assert (law[[2, 6]] == 0).all()


@pytest.mark.parametrize("time", [0.3, 1.0])
def test_coupled_states_have_the_laws_of_the_process(time: float) -> None:
    process, draws = Uniform(4), 20_000
    t = torch.full((draws,), time, dtype=torch.float64)
    x_0 = torch.full((draws, 1), 2)
    x_t, x_s = coupled(process, x_0, t, t / 2, torch.Generator().manual_seed(1))
    for x, at in ((x_t, t[:1]), (x_s, t[:1] / 2)):
        assert_drawn_from(x, process.transition(torch.zeros(1).double(), at)[0, 2])
    assert (x_s[x_t == x_0] == 2).all(), "what is kept at t is kept at s"


def test_dcd_learns_the_teachers_prediction_at_the_coupled_state() -> None:
    process = Uniform(tiny.TOKENS)
    chosen = DCD(process, label_dropout=0.0, teacher_steps=8, steps=2)
    made, batch = networks(process), tiny.batch(5)
    for round_index in (0, 1):
        total = chosen.losses(batch, made, update(chosen, round_index, seed=2)).total
        generator = torch.Generator().manual_seed(2)
        t, (_, s) = chosen._times(5, Update(generator, round=round_index))
        delta = 2**round_index / 8
        torch.testing.assert_close(t - s, torch.full_like(t, delta))
        x_t, x_s = coupled(process, batch.x_0, t, s, generator)
        p, q = made["student"](x_t, t).exp(), made["teacher"](x_s, s).exp()
        wanted = relative_entropy(p, q).sum(-1).mean()
        torch.testing.assert_close(total, wanted)


# ---- options


def test_rounds_follow_from_the_steps() -> None:
    assert rounds_between(1024, 8, 2) == 7
    assert rounds_between(81, 3, 3) == 3
    assert SDTT(Absorbing(3)).rounds == 7
    assert DCD(Uniform(3)).rounds == 5
    chosen = method(Absorbing(3), steps=2, teacher_steps=8)
    assert chosen.sampling == {"steps": 2, "latents": "fresh"}
    with pytest.raises(UserError, match="^8 steps become 2 in 2 rounds, not 3: say algo.steps"):
        chosen.losses(tiny.batch(1), {}, Update(torch.Generator(), rounds=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "js"}, "unknown divergence 'js'; there are kl, reverse_kl, mse, tvd, l1"),
        ({"trajectory": "x"}, "unknown trajectory 'x'; there are teacher, data"),
        ({"times": "x"}, "unknown times 'x'; there are even, grid, released"),
        ({"loss": "x"}, "unknown loss 'x'; there are auto, naive, chunked"),
        ({"renew": "average"}, "renew must be a list of texts, not 'average'"),
        ({"renew": ["teacher"]}, "unknown renew 'teacher'; there are optimiser, average"),
        ({"steps": 0}, "steps must be at least 1 and substeps 2, not 0 and 2"),
        ({"substeps": 1}, "steps must be at least 1 and substeps 2"),
        ({"steps": 3}, "teacher_steps=4 is not steps=3 times a power of 2"),
        ({"steps": 4}, "teacher_steps=4 is not steps=4 times a power of 2"),
        ({"trajectory": "data"}, "trajectory=data is for uniform-state diffusion"),
        ({"min_time": 0.6}, "min_time must be above 0 and below 1/steps, not 0.6"),
        ({"loss_mb": 0}, "loss_mb must be at least 1, not 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        method(Absorbing(3), **options)


def test_mistakes_of_a_process() -> None:
    with pytest.raises(UserError, match="^times=released goes with trajectory=teacher"):
        method(Uniform(3), trajectory="data", times="released")
    chosen = method(PROCESSES["confidence"], loss="chunked")
    made = networks(PROCESSES["confidence"])
    with pytest.raises(UserError, match="^loss=chunked: the step of confidence looks at all"):
        chosen.losses(tiny.batch(2), made, update(chosen))
