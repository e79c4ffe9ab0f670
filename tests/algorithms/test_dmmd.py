"""D-MMD and its switches, against the paper's sums written out over dense tables."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.algorithms.dmmd import DMMD
from di4c_plugin.algorithms.dmmd_draws import Drawn, draw_times
from di4c_plugin.algorithms.dmmd_kin import DIMO, IDLM
from di4c_plugin.diffusion import (
    Absorbing,
    Arccos,
    Confidence,
    DiscretisedGaussian,
    Halton,
    Process,
    Uniform,
)
from di4c_plugin.errors import UserError
from di4c_plugin.networks.attach import Head
from di4c_plugin.networks.denoiser import NO_LABEL, NetworkDenoiser
from di4c_plugin.networks.predictions import Hidden
from tests.algorithms import tiny
from tests.enumeration import TableDenoiser

LATENT = {"name": "mask_noise", "dim": 2, "std": 0.5}
PROCESSES: dict[str, Process] = {
    "masked": tiny.masked(),
    "uniform": Uniform(tiny.TOKENS),
    "gaussian": DiscretisedGaussian(tiny.TOKENS, rate_sigma=1.5, q_sigma=2.0, time_base=0.05),
    "confidence": Confidence(tiny.TOKENS, Arccos(), mask=tiny.MASK),
    "halton": Halton(tiny.TOKENS, Arccos(), mask=tiny.MASK, grid=(1, tiny.LENGTH)),
}
MASKED = ("masked", "confidence", "halton")
SWITCHES: dict[str, dict[str, Any]] = {
    "paper": {},
    "grid": {"times": "grid"},
    "forward": {"renoise": "forward"},
    "independent": {"times": "independent", "renoise": "forward", "steps": None},
    "no teacher": {"teacher_weight": 0.0},
    "jeffreys": {"jeffreys": 0.3},
    "tempered": {"temperature": 0.7, "top_p": 0.8, "penalty": 1.5},
}
FOR_MASKED: dict[str, dict[str, Any]] = {
    "soft": {"target": "soft"},
    "soft forward": {"target": "soft", "renoise": "forward"},
    "elbo": {"weight": "elbo"},
    "idlm": dict(IDLM.keywords),
    "dimo": dict(DIMO.keywords),
}


def config_for(process: Process) -> Any:
    """A network for the process: the DiT of text has no levels."""
    if isinstance(process, DiscretisedGaussian):
        return replace(tiny.TRANSFORMER, mask=None, time_conditioned=True)
    return tiny.DIT


def networks(process: Process) -> Networks:
    """Student, auxiliary and frozen teacher, all different."""
    config = config_for(process)
    made: Any = {
        "student": tiny.denoiser(process, LATENT, seed=1, config=config),
        "auxiliary": tiny.denoiser(process, None, seed=2, config=config),
        "teacher": tiny.denoiser(process, None, seed=3, config=config).requires_grad_(False),
    }
    return made


def update(index: int = 0, seed: int = 0) -> Update:
    return Update(torch.Generator().manual_seed(seed), index, 10)


def losses(method: DMMD, made: Networks, size: int = 5, index: int = 0, seed: int = 0) -> LossTerms:
    return method.losses(tiny.batch(size, seed), made, update(index, seed))


def method(process: Process, **options: Any) -> DMMD:
    return DMMD(process, together=True, label_dropout=0.0, **options)


# ---- the losses


def cases(*without: str) -> Iterator[Any]:
    for name in sorted(PROCESSES.keys() - set(without)):
        for switch in {**SWITCHES, **(FOR_MASKED if name in MASKED else {})}:
            yield pytest.param(name, switch, id=f"{name}-{switch}")


def options_of(switch: str) -> dict[str, Any]:
    options = {**SWITCHES, **FOR_MASKED}[switch]
    return {k: v for k, v in options.items() if k not in ("auxiliary_first", "input_noise")}


def expected(drawn: Drawn, made: Networks, process: Process, o: dict[str, Any]) -> dict[str, float]:
    """The losses, one position and token after the other, of whole tensors of probabilities."""
    states = {"x_t": drawn.z_s, "t": drawn.s}
    phi, theta = (made[k](**states).exp() for k in ("auxiliary", "teacher"))
    found = {"generator": 0.0, "auxiliary": 0.0}
    p_at = dict(zip(drawn.open_t.index.tolist(), drawn.p.log_p(slice(None))[0].exp(), strict=True))
    size, length = drawn.z_s.shape
    for b in range(size):
        w = 1 / float(drawn.s[b]) if o.get("weight") == "elbo" else 1.0
        for d in range(length):
            if not process.active(drawn.z_s)[b, d]:
                continue
            f, q = phi[b, d].tolist(), nucleus(theta[b, d].tolist(), o)
            tokens = [c for c in range(len(f)) if f[c] > 0]
            x = int(drawn.x[b, d])
            p = p_at.get(b * length + d)
            own = [float(c == x) for c in range(len(f))]
            if p is not None and o.get("target") == "soft":
                own = p.tolist()
            kappa = o.get("teacher_weight", 1.0)
            found["auxiliary"] -= w * sum((own[c] + kappa * q[c]) * math.log(f[c]) for c in tokens)
            if p is None:
                continue
            if (beta := o.get("jeffreys")) is None:
                found["generator"] += w * sum(
                    float(p[c]) * (math.log(f[c]) - math.log(q[c])) for c in tokens
                )
            else:
                ratio = {c: math.log(q[c]) - math.log(f[c]) for c in tokens}
                found["generator"] += w * sum(
                    (1 - beta) * q[c] * ratio[c] - beta * f[c] * ratio[c] for c in tokens
                )
    return {k: v / size for k, v in found.items()}


def nucleus(q: list[float], o: dict[str, Any]) -> list[float]:
    q = [c ** (1 / o.get("temperature", 1.0)) for c in q]
    q = [c / sum(q) for c in q]
    held, kept = 0.0, set()
    for c in sorted(range(len(q)), key=lambda c: -q[c]):
        if o.get("top_p", 1.0) == 1 or held < o["top_p"]:
            kept.add(c)
        held += q[c]
    q = [v * (1 if c in kept else math.exp(-o.get("penalty", 2.0))) for c, v in enumerate(q)]
    return [c / sum(q) for c in q]


@pytest.mark.parametrize(("name", "switch"), list(cases()))
def test_the_losses_are_those_of_the_paper(
    name: str, switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, process = options_of(switch), PROCESSES[name]
    kept: list[Drawn] = []
    if name in ("confidence", "halton") and options.get("weight") == "elbo":
        process = tiny.masked()  # 1/s is of its schedule
    draw = DMMD._draw

    def keeping(*arguments: Any) -> Drawn:
        kept.append(draw(*arguments))
        return kept[-1]

    monkeypatch.setattr(DMMD, "_draw", keeping)
    made = networks(process)
    found = losses(method(process, **options), made)
    with torch.no_grad():
        wanted = expected(kept[0], made, process, options)
    for term, value in wanted.items():
        assert found.terms[term].item() == pytest.approx(value, rel=1e-9), term
    assert {k: v.item() for k, v in found.totals.items()} == {
        "student": found.terms["generator"].item(),
        "auxiliary": found.terms["auxiliary"].item(),
    }


@pytest.mark.parametrize(("name", "switch"), list(cases("gaussian")))
def test_by_chunks_the_losses_and_gradients_are_the_naive_ones(name: str, switch: str) -> None:
    process, results = PROCESSES[name], []
    for loss in ("naive", "chunked"):
        made = networks(process)
        chosen = method(process, loss=loss, **options_of(switch))
        chosen.max_bytes = 12 * 3 * tiny.TOKENS * 2  # two positions a chunk
        found = losses(chosen, made)
        found.total.backward()
        parts = {k: tiny.gradients(made[k]) for k in ("student", "auxiliary")}  # type: ignore[arg-type]
        results.append((found.terms, parts))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("loss", ["naive", "auto"])
def test_nothing_is_to_be_learnt_where_all_networks_are_one(name: str, loss: str) -> None:
    process = PROCESSES[name]
    one = tiny.denoiser(process, None, config=config_for(process))
    made: Any = {"student": one, "auxiliary": copy.deepcopy(one), "teacher": copy.deepcopy(one)}
    options = {"target": "soft", "teacher_weight": 2.0} if name in MASKED else {}
    found = losses(method(process, input_noise=False, loss=loss, **options), made)
    assert found.totals["student"].item() == 0
    found.total.backward()
    assert all(not g.any() for g in tiny.gradients(made["student"]).values())


def test_the_auxiliary_rests_where_both_targets_are_its_own() -> None:
    """Soft, without a reveal in between, and with the teacher's term: its gradient is zero."""
    process = tiny.masked()
    one = Constant(process)
    made: Any = {"student": one, "auxiliary": Constant(process), "teacher": Constant(process)}
    found = losses(method(process, input_noise=False, target="soft", teacher_weight=0.7), made)
    found.totals["auxiliary"].backward()
    gradient = made["auxiliary"].logits.grad
    assert gradient.abs().max() < 1e-12
    other = losses(
        method(process, input_noise=False, target="soft"), made | {"student": Constant(process, 1)}
    )
    other.totals["auxiliary"].backward()
    assert gradient.abs().max() > 1e-3


class Constant(torch.nn.Module):
    """The same law at every open position of every state."""

    latent_shape = None

    def __init__(self, process: Process, seed: int = 0) -> None:
        super().__init__()
        self.process = process
        random = torch.Generator().manual_seed(seed)
        self.logits = torch.nn.Parameter(torch.randn(tiny.TOKENS, generator=random).double())

    def forward(self, x_t: Tensor, t: Tensor, *, cond: Any = None, latent: Any = None) -> Tensor:
        log_p = self.process.restrict(self.logits.expand(*x_t.shape, -1)).log_softmax(-1)
        return self.process.carry_over(log_p, x_t)


@pytest.mark.parametrize("switch", ["paper", "forward", "idlm", "dimo"])
def test_known_positions_never_reach_a_head(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process, rows, logits = tiny.masked(), [], Hidden.logits

    def seen(self: Hidden, part: slice) -> Tensor:
        rows.append(self.x[:, part])
        return logits(self, part)

    def head(self: Head, h: Tensor) -> Tensor:
        assert self.skipped, "a whole pass through the head"
        return h

    monkeypatch.setattr(Hidden, "logits", seen)
    monkeypatch.setattr(Head, "forward", head)
    losses(method(process, **options_of(switch)), networks(process)).total.backward()
    assert sum(len(x[0]) for x in rows) > 0
    assert all((x == tiny.MASK).all() for x in rows)


@pytest.mark.parametrize("renoise", ["posterior", "forward"])
@pytest.mark.parametrize("loss", ["naive", "chunked"])
def test_a_batch_that_leaves_nothing_open_has_no_loss(renoise: str, loss: str) -> None:
    process = tiny.masked()
    process.corrupt = lambda x_0, t, *, generator: x_0  # type: ignore[method-assign]
    made: Any = networks(process)
    found = losses(method(process, loss=loss, renoise=renoise), made)
    assert found.total.item() == 0
    found.total.backward()
    for role in ("student", "auxiliary"):
        assert all(not g.any() for g in tiny.gradients(made[role]).values())


@pytest.mark.parametrize("index", [0, 1])
def test_an_update_of_one_network_leaves_the_other_alone(index: int) -> None:
    for loss in ("naive", "chunked"):
        made: Any = networks(tiny.masked())
        found = losses(DMMD(tiny.masked(), loss=loss), made, index=index)
        found.total.backward()
        names = ["student", "auxiliary"]
        assert list(found.totals) == [names[index]]
        tiny.gradients(made[names[index]])
        assert all(p.grad is None for p in made[names[1 - index]].parameters())


# ---- the expected loss, by enumeration


@pytest.mark.slow
def test_with_an_exact_auxiliary_the_loss_is_the_divergence_of_the_mixture() -> None:
    r"""E_s \sum_{z_s} P(z_s) \sum_{open d} KL(E_g[x^d | z_s] || theta^d(z_s)), k = 1, D = 2."""
    process, count = Absorbing(3), 3
    student, teacher = TableDenoiser(process, 2, count, seed=1), TableDenoiser(process, 2, seed=2)
    teacher.logits[1] = teacher.logits[0]
    table = student.table(1.0)[:, -1].exp()  # (N, D, S), from masks alone
    joint = torch.einsum("nx,ny->xy", table[:, 0], table[:, 1]) / count
    exact = Exact(process, joint)
    x = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    log_phi = exact(x, torch.ones(16))
    log_theta = teacher(x, torch.ones(16, dtype=torch.float64))
    kl = (log_phi.exp() * (log_phi - log_theta)).sum(-1).where(process.active(x), 0).sum(-1)
    rows = {tuple(state.tolist()): float(v) for state, v in zip(x, kl, strict=True)}
    low = 1e-3
    grid = low + (1 - low) * (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    one, two = float((grid * (1 - grid)).mean()), float((grid**2).mean())
    wanted = two * rows[3, 3]
    for c in range(3):
        wanted += one * float(joint[c].sum()) * rows[c, 3]
        wanted += one * float(joint[:, c].sum()) * rows[3, c]
    chosen = DMMD(process, steps=1, times="grid", min_time=low)
    made: Any = {"student": student, "auxiliary": exact, "teacher": teacher}
    batch = Batch(torch.zeros(2000, 2, dtype=torch.long))
    found = torch.stack(
        [chosen.losses(batch, made, update(0, seed)).totals["student"] for seed in range(40)]
    )
    error = float(found.std()) / len(found) ** 0.5
    assert error < 0.02 * wanted
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * error)


class Exact:
    """E_g[x | z_s] of the joint law (S, S) of two tokens."""

    latent_shape = None

    def __init__(self, process: Process, joint: Tensor) -> None:
        self.process, self.joint = process, joint

    def __call__(self, x_t: Tensor, t: Tensor, *, cond: Any = None, latent: Any = None) -> Tensor:
        rows = []
        for a, b in x_t.tolist():
            law = self.joint.clone()
            law[[c for c in range(3) if a < 3 and c != a]] = 0
            law[:, [c for c in range(3) if b < 3 and c != b]] = 0
            law = law / law.sum()
            rows.append(torch.stack([law.sum(1), law.sum(0)]))
        return self.process.carry_over(torch.stack(rows).log().clamp(min=-1e6), x_t)


# ---- the draws


@pytest.mark.parametrize("k", [1, 4])
def test_times(k: int) -> None:
    random = torch.Generator().manual_seed(0)
    t, s = draw_times("window", 4000, k, 1e-3, random)
    assert (s < t).all()
    assert t.max() == 1
    assert (t - s).max() <= 1 / k
    inside = s < 1 - 1 / k
    if k > 1:
        assert (t - s)[inside].mean() == pytest.approx(1 / (2 * k), rel=0.05)
    assert s.mean() == pytest.approx(0.5, abs=0.01)
    t, s = draw_times("grid", 4000, k, 1e-3, random)
    assert sorted(set(t.tolist())) == [(i + 1) / k for i in range(k)]
    assert ((t - s > 0) & (t - s <= 1 / k)).all()
    assert (t - s).mean() == pytest.approx(1 / (2 * k), rel=0.05)
    t, s = draw_times("independent", 4000, None, 1e-3, random)
    assert 0.4 < (t < s).double().mean() < 0.6
    assert torch.corrcoef(torch.stack([t, s]))[0, 1].abs() < 0.05


def drawn(
    process: Process, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Drawn, Tensor]:
    """What is drawn for many examples, and their z_t."""
    z_t: list[Tensor] = []
    corrupt = type(process).corrupt

    def keeping(*arguments: Any, **keywords: Any) -> Tensor:
        z_t.append(corrupt(process, *arguments, **keywords))
        return z_t[-1]

    monkeypatch.setattr(process, "corrupt", keeping)
    made = networks(process)
    chosen = DMMD(process, label_dropout=0.0, **options)
    predicts: Any = lambda *a, learns: chosen._predict(*a, hidden=True, learns=learns)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    found = chosen._draw(tiny.batch(300), made["student"], generator, predicts, ("student",))
    return found, z_t[0]


def test_the_posterior_opens_masks_and_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found, z_t = drawn(tiny.masked(), monkeypatch)
    known, later = z_t != tiny.MASK, found.z_s != tiny.MASK
    assert later[known].all()
    assert (found.z_s == found.x)[later].all()
    assert (found.x == z_t)[known].all()
    assert (later & ~known).any()


def test_forward_masks_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    found, z_t = drawn(tiny.masked(), monkeypatch, renoise="forward")
    later = found.z_s != tiny.MASK
    assert (found.z_s == found.x)[later].all()
    assert (~later & (z_t != tiny.MASK)).any()
    assert later.double().mean() == pytest.approx(float(1 - found.s.mean()), abs=0.03)


@pytest.mark.parametrize("name", ["confidence", "halton"])
def test_a_step_opens_as_many_as_the_hosts_sampler(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process: Any = PROCESSES[name]
    options: dict[str, Any] = {"times": "grid", "renoise": "step"}
    found, z_t = drawn(process, monkeypatch, **options)
    cell = ((found.s * 4).floor() + 1) / 4
    opened = (z_t == tiny.MASK).sum(-1) - (found.z_s == tiny.MASK).sum(-1)
    assert torch.equal(opened, process.count(z_t, cell, found.s))
    later, _ = drawn(process, monkeypatch, times="grid")
    assert not torch.equal(later.z_s, found.z_s)


def test_labels_are_dropped_for_all_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    process, seen = tiny.masked(), []
    batch = Batch(tiny.batch(200).x_0, torch.zeros(200, dtype=torch.long))

    class Labelled(Constant):
        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
            seen.append(options["cond"])
            return super().forward(x_t, t)

    made: Any = {k: Labelled(process) for k in ("student", "auxiliary", "teacher")}
    DMMD(process, label_dropout=0.3, input_noise=False).losses(batch, made, update())
    assert len(seen) == 3
    assert all(torch.equal(cond, seen[0]) for cond in seen)
    assert (seen[0] == NO_LABEL).double().mean() == pytest.approx(0.3, abs=0.1)


# ---- roles and options


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "sasasa"),
        ({"auxiliary_updates": 3}, "saaasa"),
        ({"auxiliary_first": True}, "asasas"),
        ({"auxiliary_updates": 2, "auxiliary_first": True}, "aasaas"),
    ],
)
def test_who_learns_when(options: dict[str, Any], wanted: str) -> None:
    chosen = DMMD(tiny.masked(), **options)
    turns = [tuple(chosen.trained(update(index))) for index in range(6)]
    assert turns == [({"s": "student", "a": "auxiliary"}[letter],) for letter in wanted]
    assert set(DMMD(tiny.masked(), together=True).trained(update(1))) == {"student", "auxiliary"}


def test_roles() -> None:
    masked, uniform = tiny.masked(), Uniform(4)
    assert DMMD(masked).roles["student"].latent == "required"
    assert DMMD(uniform).roles["student"].latent == "optional"
    assert DMMD(uniform, input_noise=True).roles["student"].latent == "required"
    assert DMMD(masked, input_noise=False).roles["student"].latent == "none"
    made = DMMD(masked, betas=(0.5, 0.9), auxiliary_lr=0.1)
    assert [role.betas for role in made.roles.values()] == [(0.5, 0.9)] * 2
    assert [role.lr for role in made.roles.values()] == [1.0, 0.1]
    assert DMMD(masked, betas=None).roles["student"].betas is None
    assert DMMD(masked).roles["auxiliary"].latent == "none"


def test_the_kin_are_switches() -> None:
    masked = tiny.masked()
    idlm, dimo = IDLM(masked), DIMO(masked)
    assert isinstance(idlm, DMMD)
    assert (idlm.sampling, dimo.sampling) == (
        {"latents": "fresh"},
        {"latents": "fresh", "steps": 1},
    )
    assert DMMD(masked, steps=8).sampling == {"latents": "fresh", "steps": 8}
    assert tuple(idlm.trained(update(0))) == ("auxiliary",)
    assert idlm.roles["student"].latent == "none"
    assert (dimo.jeffreys, dimo.teacher_weight, dimo.steps, dimo.times) == (0.0, 0.0, 1, "grid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": "never"}, "unknown times 'never'; there are window, grid, independent"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": None}, "times=window needs the number of steps"),
        ({"times": "independent"}, "times=independent goes with renoise=forward"),
        ({"process": Uniform(4), "target": "soft"}, "target=soft .* masked processes"),
        ({"process": Uniform(4), "weight": "elbo"}, ".*weight=elbo .* masked processes"),
        (
            {"together": True, "auxiliary_updates": 2},
            "together=true goes with auxiliary_updates=1, not 2",
        ),
        ({"top_p": 0.0}, ".*0 < top_p <= 1.*"),
        ({"min_time": 0.5}, "min_time must be .* below 1/steps, not 0.5"),
        ({"betas": [0.9, 1.0]}, r"betas\[1\] must be in \[0, 1\), not 1.0"),
        ({"betas": [-1, 0.5]}, r"betas\[0\] must be in \[0, 1\), not -1.0"),
        ({"auxiliary_lr": -1.0}, r"auxiliary_lr must be in \[0, 1000000\], not -1.0"),
        ({"auxiliary_lr": 1e308}, r"auxiliary_lr must be in \[0, 1000000\], not 1e\+308"),
        ({"loss": "fast"}, "unknown loss 'fast'; .*"),
        ({"loss_mb": 0}, "loss_mb must be at least 1, not 0"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        DMMD(**{"process": tiny.masked()} | options)


class Marginal:
    """The marginals of a mixture of two cells, a product model."""

    latent_shape = None

    def __init__(self, mixture: TableDenoiser) -> None:
        self.mixture = mixture

    def __call__(self, x_t: Tensor, t: Tensor, *, cond: Any = None, latent: Any = None) -> Tensor:
        cells = [self.mixture(x_t, t, latent=torch.full((len(t), 1), c)) for c in (0.25, 0.75)]
        return torch.stack(cells).logsumexp(0) - math.log(2)


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=["masked", "uniform"])
def test_a_mixture_teaches_by_its_marginals(process: Process) -> None:
    mixture = TableDenoiser(process, 2, 2, seed=3)
    made: Any = {
        "student": TableDenoiser(process, 2, 2, seed=1),
        "auxiliary": TableDenoiser(process, 2, seed=2),
    }
    batch = Batch(torch.cartesian_prod(torch.arange(3), torch.arange(3)))
    found = [
        method(process, teacher_latents=count, temperature=0.8).losses(
            batch, made | {"teacher": teacher}, update()
        )
        for teacher, count in ((mixture, 2), (Marginal(mixture), 2), (mixture, 1))
    ]
    torch.testing.assert_close(found[0].terms, found[1].terms)
    assert (found[2].terms["generator"] - found[1].terms["generator"]).abs() > 1e-4


def test_a_mixture_teaches_the_same_by_chunks() -> None:
    process, results = tiny.masked(), []
    for loss in ("naive", "chunked"):
        made: Any = networks(process)
        made["teacher"] = tiny.denoiser(process, LATENT, seed=3).requires_grad_(False)
        chosen = method(process, loss=loss)
        chosen.max_bytes = 12 * 3 * tiny.TOKENS * 10
        found = losses(chosen, made)
        found.total.backward()
        results.append((found.terms, [tiny.gradients(made[k]) for k in ("student", "auxiliary")]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-10)


def test_chunks_need_heads() -> None:
    made: Any = {**networks(tiny.masked()), "auxiliary": Constant(tiny.masked())}
    with pytest.raises(UserError, match="^loss=chunked: the auxiliary has no hidden states"):
        losses(DMMD(tiny.masked(), loss="chunked"), made)
    assert isinstance(made["student"], NetworkDenoiser)
