"""Every term of the Di4C loss against its definition, summed over the whole space.

Networks are tables (`TableDenoiser`), their mixtures have two components, and stratified lambdas
visit each component once: the mixture is then exact, and given x_t only x_u and x_s are random.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.algorithms.di4c import Di4C, Weights
from di4c_plugin.diffusion import Absorbing, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.losses.alpha import correlation_weight
from di4c_plugin.networks.denoiser import repeated
from tests.enumeration import TableDenoiser, product_law, relative_entropy, states

POSITIONS = 2
SPACES = [Absorbing(2), Absorbing(3), Uniform(3)]
OPTIONS: dict[str, Any] = {
    "target": "average",
    "latents": 2,
    "delta": 0.2,
    "delta_share": None,
    "delta_t": (0.25, 0.25),
}


class Spy:
    """A denoiser that remembers its calls."""

    def __init__(self, denoiser: TableDenoiser) -> None:
        self.denoiser = denoiser
        self.latent_shape = denoiser.latent_shape
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.calls.append((x_t, t))
        return self.denoiser(x_t, t, cond=cond, latent=latent)


@dataclass
class Seen:
    """One call of `losses` and the states it drew."""

    terms: LossTerms
    x_0: Tensor
    x_t: Tensor
    t: Tensor
    u: Tensor


class Case:
    """Random tables for teacher, student and target of a process."""

    def __init__(self, process: Process, teacher_components: int = 1) -> None:
        self.process = process
        self.teacher = TableDenoiser(process, POSITIONS, teacher_components, seed=1)
        self.student = TableDenoiser(process, POSITIONS, 2, seed=2)
        self.target = TableDenoiser(process, POSITIONS, 2, seed=3)
        self.clean = states(process.num_tokens, POSITIONS)

    def update(self, algorithm: Di4C, seed: int, size: int = 64, progress: float = 0.0) -> Seen:
        generator = torch.Generator().manual_seed(seed)
        x_0 = self.clean[torch.randint(len(self.clean), (size,), generator=generator)]
        student, target = Spy(self.student), Spy(self.target)
        networks: Networks = {
            "student": student,
            "teacher": self.teacher,
            "student_average": target,
        }
        where = Update(generator, int(progress * 1000), 1000)
        terms = algorithm.losses(Batch(x_0), networks, where)
        (x_t, t), (_, u) = student.calls[0], target.calls[0]
        # The student gets each state once, for all lambda; the target gets N samples of each.
        return Seen(terms, x_0, x_t, t, u[: len(t)])

    def mixture(self, denoiser: TableDenoiser, x_t: Tensor, t: Tensor) -> Tensor:
        """log p_{0|t} of each component, (K, B, D, S)."""
        k = denoiser.components
        if k == 1:
            return denoiser(x_t, t)[None]
        middles = [torch.full((len(x_t), 1), (n + 0.5) / k) for n in range(k)]
        return torch.stack([denoiser(x_t, t, latent=middle) for middle in middles])

    def composition(self, update: Seen) -> tuple[Tensor, Tensor]:
        """The law of x_u, (B, M), and log p_{0|u} of each target component, (K, B, M, D, S)."""
        log_q = self.mixture(self.teacher, update.x_t, update.t)
        log_p_u = [self.process.log_posterior(q, update.x_t, update.t, update.u) for q in log_q]
        law_u = product_law(torch.stack(log_p_u)).mean(0)
        x_u = states(self.process.num_states, POSITIONS)
        b, m = law_u.shape
        log_c = self.mixture(self.target, x_u.repeat(b, 1), update.u.repeat_interleave(m))
        return law_u, log_c.unflatten(1, (b, m))


def marginal(log_p: Tensor) -> Tensor:
    """log of the mean over components, (K, ..., D, S) to (..., D, S)."""
    return log_p.exp().mean(0).log()


def cross_entropy_gap(law: Tensor, log_p: Tensor) -> Tensor:
    """E_{x ~ law}[-log p(x) + log bar p(x)] for the mixture log_p (K, B, D, S): (B,)."""
    joint, independent = product_law(log_p).mean(0), product_law(marginal(log_p))
    return relative_entropy(law, joint) - relative_entropy(law, independent)


def sum_of_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return relative_entropy(log_q.exp(), log_p.exp()).sum(-1)


def expected(case: Case, update: Seen, algorithm: Di4C) -> dict[str, Tensor]:
    """Each term by its definition, given x_t, per example."""
    log_q = case.mixture(case.teacher, update.x_t, update.t)
    log_p = case.mixture(case.student, update.x_t, update.t)
    near = update.t < algorithm.delta
    law_u, log_c = case.composition(update)
    law_s = (law_u.unsqueeze(-1) * product_law(log_c).mean(0)).sum(1)
    # x_u^1 and x_u^2 are independent; component 1 continues one of them, component 2 the other.
    pairs = torch.stack(
        [
            log_c[0].unsqueeze(2).expand(-1, -1, law_u.shape[1], -1, -1),
            log_c[1].unsqueeze(1).expand(-1, law_u.shape[1], -1, -1, -1),
        ]
    )
    # Infinite where a pair cannot be drawn.
    kl_pairs = sum_of_kl(marginal(pairs), marginal(log_p)[:, None, None]).nan_to_num(posinf=0)
    data_law = torch.zeros_like(law_s)
    data_law[torch.arange(len(update.x_0)), case_rank(case, update.x_0)] = 1
    surrogate = torch.stack([sum_of_kl(marginal(log_q), p) for p in log_p]).mean(0)
    return {
        "distil": surrogate.where(near, 0),
        "consis_corr": cross_entropy_gap(law_s, log_p).where(~near, 0),
        "consis_marg": torch.einsum("bi,bj,bij->b", law_u, law_u, kl_pairs).where(~near, 0),
        "data_corr": correlation_weight("sigmoid", update.t) * cross_entropy_gap(data_law, log_p),
        "data_marg": sum_of_kl(marginal(log_q), marginal(log_p)),
    }


def case_rank(case: Case, x_0: Tensor) -> Tensor:
    return (x_0.unsqueeze(1) == case.clean).all(-1).long().argmax(-1)


@pytest.mark.parametrize("process", SPACES, ids=["mask2", "mask3", "uniform3"])
@pytest.mark.parametrize("term", ["distil", "data_corr", "data_marg"])
def test_terms_without_samples_are_exact(process: Process, term: str) -> None:
    case, algorithm = Case(process), Di4C(process, **OPTIONS)
    update = case.update(algorithm, seed=0)
    truth = expected(case, update, algorithm)[term].mean()
    assert truth.abs() > 1e-3
    assert update.terms.terms[term].item() == pytest.approx(truth.item(), abs=1e-9)


@pytest.mark.parametrize("process", SPACES, ids=["mask2", "mask3", "uniform3"])
@pytest.mark.parametrize("teacher_components", [1, 2], ids=["product teacher", "mixture teacher"])
def test_consistency_terms_estimate_their_definition(
    process: Process, teacher_components: int
) -> None:
    case, algorithm = Case(process, teacher_components), Di4C(process, **OPTIONS)
    errors = []
    for seed in range(40):
        update = case.update(algorithm, seed)
        truth = expected(case, update, algorithm)
        names = ("consis_corr", "consis_marg")
        errors.append([update.terms.terms[name] - truth[name].mean() for name in names])
    error = torch.tensor(errors)
    spread = error.std(0) / len(error) ** 0.5
    assert (error.mean(0).abs() < 4 * spread).all()
    assert (spread < 0.02).all()


class SpyProcess(Absorbing):
    """Remembers the times that posteriors were asked for."""

    def __init__(self) -> None:
        super().__init__(2)
        self.times: list[tuple[Tensor, Tensor]] = []

    def log_posterior(self, log_p_0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        self.times.append((t, s))
        return super().log_posterior(log_p_0, x_t, t, s)


def test_partial_consistency_estimates_its_definition_at_s() -> None:
    """KL(p_{s|u} o p_{u|t} || p_{s|t}): over x_s, which may still hold masks."""
    process = SpyProcess()
    case, algorithm = Case(process), Di4C(process, partial=True, **OPTIONS)
    errors = []
    for seed in range(60):
        process.times.clear()
        update = case.update(algorithm, seed)
        (_, s), *_ = process.times
        s = s[: len(update.t)]
        assert (s < update.u).all()
        truth = partial_gap(case, update, s).where(update.t >= algorithm.delta, 0).mean()
        errors.append(update.terms.terms["consis_corr"] - truth)
    error = torch.stack(errors)
    assert error.mean().abs() < 4 * error.std() / len(errors) ** 0.5
    assert error.std() / len(errors) ** 0.5 < 0.02


def partial_gap(case: Case, update: Seen, s: Tensor) -> Tensor:
    """E over the composition's x_s of -log p(x_s) + log bar p(x_s), (B,)."""
    law_u, log_c = case.composition(update)
    b, m = law_u.shape
    x_u = states(case.process.num_states, POSITIONS).repeat(b, 1)
    u, late = (time.repeat_interleave(m) for time in (update.u, s))
    to_s = [case.process.log_posterior(p.flatten(0, 1), x_u, u, late) for p in log_c]
    law_s = product_law(torch.stack(to_s)).mean(0).unflatten(0, (b, m))
    law_s = (law_u.unsqueeze(-1) * law_s).sum(1)
    log_p = case.mixture(case.student, update.x_t, update.t)
    return cross_entropy_gap(
        law_s,
        torch.stack([case.process.log_posterior(p, update.x_t, update.t, s) for p in log_p]),
    )


def test_the_total_is_the_weighted_sum_and_a_zero_switches_off() -> None:
    process = SPACES[0]
    weights = {"consis_corr": 0.5, "data_corr": 0.0, "distil": 0.1}
    terms = Case(process).update(Di4C(process, weights=weights, **OPTIONS), seed=0).terms
    assert set(terms.terms) == {"consis_corr", "consis_marg", "distil", "data_marg"}
    total = sum(
        (weights | {"consis_marg": 1, "data_marg": 1})[k] * v for k, v in terms.terms.items()
    )
    assert terms.total.item() == pytest.approx(float(total), abs=1e-12)


def test_a_grid_has_the_positions_of_the_network() -> None:
    with pytest.raises(UserError, match=r"algo.grid=\[2, 2\] has not the 2 positions"):
        Case(SPACES[0]).update(Di4C(SPACES[0], windows=[2], grid=(2, 2), **OPTIONS), seed=0)


def test_every_example_has_its_own_time() -> None:
    process = SPACES[0]
    update = Case(process).update(Di4C(process, **OPTIONS), seed=0, size=10)
    assert (update.t * 10).floor().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("progress", "low", "high"), [(0, 0.1, 0.4), (0.5, 0.05, 0.1), (1, 0.025, 0.025)]
)
def test_the_teachers_step_shrinks_geometrically(progress: float, low: float, high: float) -> None:
    process = SPACES[0]
    algorithm = Di4C(
        process,
        target="average",
        latents=2,
        delta_share=None,
        delta_t=(0.1, 0.4),
        delta_t_end=(0.025, 0.025),
    )
    update = Case(process).update(algorithm, seed=0, size=500, progress=progress)
    step, free = update.t - update.u, update.t > 2 * high
    assert torch.allclose(step[update.t < 2 * low], update.t[update.t < 2 * low] / 2)
    assert step[free].min() >= low - 1e-12
    assert step[free].max() <= high + 1e-12
    if low < high:
        share = (step[free] / low).log() / math.log(high / low)
        assert share.mean() == pytest.approx(0.5, abs=0.07)


def test_at_the_prior_the_data_are_those_of_one_label() -> None:
    process = Absorbing(3)
    x_0 = torch.arange(6).unsqueeze(1).repeat(1, 2) % 3
    batch = Batch(x_0, torch.tensor([4, 2, 4, 4, 1, 2]))
    seen: dict[int, int] = {}
    algorithm = Di4C(process, prior_share=1.0, latents=2, states=3, label_dropout=0.25)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        noised = algorithm._noise(batch, generator)
        assert noised.cond is not None
        (label,) = noised.cond.tolist()
        expected = x_0[[0, 2, 3]] if label == 4 else x_0
        assert torch.equal(noised.x_0, expected.unsqueeze(1))
        assert (noised.latents, noised.t.tolist()) == (6, [1.0])
        seen[label] = seen.get(label, 0) + 1
    assert seen.keys() == {4, -1}
    assert seen[-1] / 400 == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=["mask3", "uniform3"])
def test_at_the_prior_one_state_serves_the_whole_batch(process: Process, seed: int) -> None:
    case = Case(process)
    algorithm = Di4C(process, prior_share=1.0, latents=1, states=2, delta=0.2, target="average")
    update = case.update(algorithm, seed=seed, size=50)
    assert update.x_t.shape == (1, POSITIONS)
    assert update.t.tolist() == [1.0]
    log_p = case.mixture(case.student, update.x_t, update.t)
    frequency = torch.bincount(case_rank(case, update.x_0), minlength=len(case.clean)) / 50
    truth = cross_entropy_gap(frequency.double()[None], log_p)
    assert update.terms.terms["data_corr"].item() == pytest.approx(
        truth.item() * torch.sigmoid(torch.tensor(10.0)).item(), rel=1e-6
    )


class Dropping(nn.Module):
    """A mixture whose prediction depends on the training flag, as with dropout."""

    latent_shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.modes: list[tuple[bool, bool]] = []

    def forward(
        self, x_t: Tensor, t: Tensor, *, cond: Tensor | None = None, latent: Tensor | None = None
    ) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        if latent is not None:
            (x_t,) = repeated(len(latent), x_t)
        log_p = self.weight.log_softmax(-1).expand(*x_t.shape, 2)
        return SPACES[0].carry_over(log_p, x_t)


def test_the_target_runs_without_dropout_and_gradient_and_the_student_with() -> None:
    student, teacher = Dropping(), TableDenoiser(SPACES[0], POSITIONS, seed=1)
    networks: Networks = {"student": student, "teacher": teacher}
    x_0 = torch.zeros(4, POSITIONS, dtype=torch.int64)
    algorithm = Di4C(SPACES[0], **OPTIONS | {"target": "student"})
    generator = torch.Generator().manual_seed(0)
    algorithm.losses(Batch(x_0), networks, Update(generator)).total.backward()
    assert sorted(student.modes) == [(False, False), (True, True)]
    assert student.training


@pytest.mark.parametrize("size", [1, 2, 5])
def test_any_batch_size_and_a_batch_without_masks(size: int) -> None:
    process = SPACES[0]
    case = Case(process)
    case.student.logits.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    algorithm = Di4C(process, min_time=1e-9, **OPTIONS)
    batch = Batch(torch.zeros(size, POSITIONS, dtype=torch.int64))
    networks = {"student": case.student, "teacher": case.teacher, "student_average": case.target}
    terms = algorithm.losses(batch, networks, Update(generator))
    terms.total.backward()
    assert case.student.logits.grad is not None
    assert case.student.logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": 0}, "latents must be at least 1, not 0"),
        ({"delta_t": (0.5, 0.1)}, "0 < low <= high < 1, not 0.5, 0.1"),
        ({"weights": {"consistency": 1}}, "unknown weights .*consistency.*; there are distil, "),
        ({"weights": dict.fromkeys(asdict(Weights()), 0.0)}, "all weights are 0"),
        ({"alpha": "cosine"}, "unknown alpha 'cosine'; there are sigmoid, linear, const"),
        ({"prior_share": 1.5}, "prior_share must be in"),
        ({"windows": (1,)}, r"windows\[0\] must be at least 2, not 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Di4C(SPACES[0], **options)  # type: ignore[arg-type]


def test_a_shared_state_follows_the_prior() -> None:
    process = Uniform(3)
    algorithm, generator = Di4C(process, prior_share=1.0), torch.Generator().manual_seed(0)
    batch = Batch(torch.zeros(4, 2, dtype=torch.long))
    x_1 = torch.cat([algorithm._noise(batch, generator).x_t for _ in range(600)])
    assert x_1.shape == (600, 2)
    frequency = torch.bincount(x_1[:, 0] * 3 + x_1[:, 1], minlength=9) / 600
    assert (frequency - 1 / 9).abs().max() < 4 * (1 / 9 / 600) ** 0.5
