"""Every way to compute the Di4C loss gives the same numbers, and none waits for the device."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from di4c_plugin.algorithms.base import Batch, LossTerms, Networks, Update
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.algorithms.di4c_terms import LOSSES, choose_loss, has_heads
from di4c_plugin.diffusion import Confidence, LogLinear, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.networks.denoiser import NetworkDenoiser
from tests.algorithms import tiny

N = 3
LATENTS: dict[str, dict[str, Any]] = {
    "token": {"name": "token"},
    "adaln": {"name": "adaln"},
    "mask_noise": {"name": "mask_noise", "dim": 2},
    "late token": {"name": "token", "blocks": 1},
    "late adaln": {"name": "adaln", "blocks": 1},
    "late mask_noise": {"name": "mask_noise", "dim": 2, "blocks": 1},
}
# Times at which every term has a part.
USUAL: dict[str, Any] = {
    "latents": N,
    "delta": 0.6,
    "delta_share": None,
    "delta_t": (0.125, 0.125),
    "min_time": 0.3,
    "alpha": "const",
    "weights": {"data_corr": 1.0},
}
TERMS = {"distil", "consis_corr", "consis_marg", "data_corr", "data_marg"}


@dataclass
class Result:
    """What one update found."""

    losses: LossTerms
    gradients: dict[str, Tensor]
    after: Tensor
    """What the generator draws next."""


def update(
    networks: Networks, loss: str, data: Batch, *, chunk: int = 2, seed: int = 6, **options: Any
) -> Result:
    """One update by a path whose chunks have so many positions."""
    assert isinstance(networks["student"], NetworkDenoiser)
    process = networks["student"].process
    target = "average" if "student_average" in networks else "student"
    algorithm = Di4C(process, loss=loss, target=target, **USUAL | options)
    algorithm.max_bytes = 12 * N * tiny.TOKENS * chunk
    generator = torch.Generator().manual_seed(seed)
    losses = algorithm.losses(data, networks, Update(generator, 3, 10))
    losses.total.backward()
    after = torch.rand(3, generator=generator)
    return Result(losses, tiny.gradients(networks["student"]), after)


def compare(found: Result, want: Result, tolerance: float = 1e-9) -> None:
    """Compare each in the unit of the largest gradient of the same parameter."""
    assert found.losses.terms.keys() == want.losses.terms.keys()
    for name, value in want.losses.terms.items():
        near = pytest.approx(value.item(), rel=tolerance, abs=1e-13)
        assert found.losses.terms[name].item() == near, name
    assert found.losses.total.item() == pytest.approx(want.losses.total.item(), rel=tolerance)
    for name, grad in want.gradients.items():
        unit = grad.abs().max().item()
        assert (found.gradients[name] - grad).abs().max() <= tolerance * unit, name
    assert torch.equal(found.after, want.after), "another number of draws"


def no_trivial(want: Result) -> None:
    """Every term and every gradient is there to be compared."""
    assert set(want.losses.terms) == TERMS
    assert all(value.abs() > 1e-6 for value in want.losses.terms.values())
    assert all(grad.abs().max() > 1e-6 for grad in want.gradients.values())


# Agreement


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("teacher", ["product teacher", "mixture teacher"])
@pytest.mark.parametrize("size", [1, 3])
def test_all_paths_agree(latent: str, teacher: str, size: int) -> None:
    of_teacher = LATENTS["adaln"] if teacher == "mixture teacher" else None
    networks = tiny.networks(tiny.masked(), LATENTS[latent], teacher=of_teacher)
    data = tiny.batch(size)
    # One example is either before delta or after it.
    options: dict[str, Any] = {} if size > 1 else {"weights": {"distil": 0.0}, "delta": 0.0}
    want = update(networks, "naive", data, **options)
    if size > 1:
        no_trivial(want)
    for loss in ("auto", *LOSSES):
        compare(update(networks, loss, data, **options), want)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("loss", ["checkpoint", "chunked", "two_pass"])
def test_whatever_the_chunks_are(loss: str, chunk: int) -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"], target=True)
    want = update(networks, "naive", tiny.batch(4))
    no_trivial(want)
    compare(update(networks, loss, tiny.batch(4), chunk=chunk), want)


OPTIONS: dict[str, dict[str, Any]] = {
    "at the prior": {"prior_share": 1.0, "states": 2},
    "fewer states": {"states": 2},
    "distil alone": {"weights": {"consis_corr": 0.0, "consis_marg": 0.0}},
    "one lambda": {"latents": 1},
    "windows": {"windows": (2, 4)},
    "square windows": {"windows": (2,), "grid": (2, 3)},
    "early": {"delta_share": 0.5, "stratified": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_whatever_the_options_are(options: dict[str, Any]) -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["token"])
    want = update(networks, "naive", tiny.batch(4), **options)
    for loss in LOSSES:
        compare(update(networks, loss, tiny.batch(4), **options), want)


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_uniform_diffusion_too(leave_one_out: bool) -> None:
    process = Uniform(tiny.TOKENS, leave_one_out=leave_one_out)
    networks = tiny.networks(process, LATENTS["adaln"], teacher=LATENTS["adaln"])
    want = update(networks, "naive", tiny.batch(3))
    no_trivial(want)
    for loss in LOSSES:
        compare(update(networks, loss, tiny.batch(3)), want)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("teacher", [None, {"name": "adaln"}], ids=["product", "mixture"])
def test_networks_with_logits_only(latent: str, teacher: dict[str, Any] | None) -> None:
    networks = tiny.networks(
        tiny.masked(), LATENTS[latent], teacher=teacher, config=tiny.TRANSFORMER, target=True
    )
    assert not has_heads(tiny.trio(networks))
    want = update(networks, "naive", tiny.batch(3))
    no_trivial(want)
    for loss in ("two_pass", "auto"):
        compare(update(networks, loss, tiny.batch(3)), want)


def test_without_masks_every_path_is_connected() -> None:
    """At t near 0 nothing is masked: no term, and a gradient of zero for every weight."""
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    for loss in LOSSES:
        found = update(networks, loss, tiny.batch(3), min_time=1e-12, delta=1e-10, delta_share=1.0)
        assert found.losses.total == 0
        assert all((grad == 0).all() for grad in found.gradients.values())


@pytest.mark.parametrize("config", [tiny.DIT, tiny.TRANSFORMER], ids=["head", "logits"])
def test_two_passes_drop_alike(config: Any) -> None:
    """One lambda at a time draws other masks than all together, but the same in both passes."""
    process = tiny.masked()
    networks = tiny.networks(process, LATENTS["adaln"], config=config)
    assert isinstance(networks["student"], NetworkDenoiser)
    network: Any = networks["student"].network
    last: Any = network.blocks[-1].mlp
    last.append(nn.Dropout(0.5))
    dropped: list[Tensor] = []
    last[-1].register_forward_hook(
        lambda module, args, out: dropped.append(out == 0) if module.training else None
    )
    torch.manual_seed(0)
    update(networks, "two_pass", tiny.batch(3))
    first, second = dropped[:N], dropped[N:]
    assert len(second) == N
    # The second pass goes backwards, or not: each has its partner.
    partners = [[torch.equal(one, other) for other in second] for one in first]
    assert [sum(row) for row in partners] == [1] * N


# What is computed


class Spy:
    """A denoiser with a head that counts the rows of its calls."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        self.denoiser, self.process, self.head = denoiser, denoiser.process, denoiser.head
        self.latent_shape = denoiser.latent_shape
        self.rows: list[tuple[int, int | None]] = []

    def _seen(self, x_t: Tensor, latent: Tensor | None) -> None:
        self.rows.append((len(x_t), None if latent is None else len(latent)))

    def __call__(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
        self._seen(x_t, options["latent"])
        log_p: Tensor = self.denoiser(x_t, t, **options)
        return log_p

    def hidden(self, x_t: Tensor, t: Tensor, **options: Any) -> Tensor:
        self._seen(x_t, options["latent"])
        return self.denoiser.hidden(x_t, t, **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_network_sees_a_state_once(loss: str) -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"], target=True)
    spies = [Spy(one) for one in networks.values() if isinstance(one, NetworkDenoiser)]
    assert len(spies) == 3
    student, teacher, target = spies
    algorithm = Di4C(tiny.masked(), loss=loss, latents=N, target="average")
    algorithm.losses(
        tiny.batch(4),
        {"student": student, "teacher": teacher, "student_average": target},
        Update(torch.Generator().manual_seed(0)),
    ).total.backward()
    assert teacher.rows == [(4, None)]
    assert target.rows == [(N * 4, N * 4)]
    # All lambda of a state at once, or by two passes one after the other.
    one_by_one = loss == "two_pass"
    assert student.rows == ([(4, 4)] * (2 * N) if one_by_one else [(4, N * 4)])


@pytest.mark.parametrize("loss", ["checkpoint", "chunked", "two_pass"])
def test_no_head_is_applied_to_all_lambdas_and_positions(loss: str) -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    with Watch() as watch:
        update(networks, loss, tiny.batch(8), chunk=2)
    with Watch() as naive:
        update(networks, "naive", tiny.batch(8))
    everything = N * 8 * tiny.LENGTH * tiny.TOKENS
    assert naive.most_logits >= everything
    assert watch.most_logits <= 2 * N * tiny.TOKENS


# Waiting for the device

WAITS = {
    "aten._local_scalar_dense",
    "aten.item",
    "aten.is_nonzero",
    "aten.equal",
    "aten.nonzero",
    "aten.masked_select",
    "aten._unique2",
    "aten.unique_consecutive",
    "aten.repeat_interleave.Tensor",
    "aten.lift_fresh",
    "aten.allclose",
}


class Watch(TorchDispatchMode):
    """Counts what a host with an accelerator would wait for, and the largest logits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: Counter[str] = Counter()
        self.most_logits = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func)
        if name in WAITS or name.rpartition(".")[0] in WAITS:
            self.waits[name.rpartition(".")[0] if name not in WAITS else name] += 1
        if name.startswith(("aten.index.", "aten.index_put")) and any(
            isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        ):
            self.waits["bool index"] += 1
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.ndim > 2 and value.shape[-1] == tiny.TOKENS:
                self.most_logits = max(self.most_logits, value.numel())
        return out


def test_the_watch_sees_what_waits() -> None:
    x = torch.arange(4)
    with Watch() as watch:
        int(x.sum())
        x[x > 1]
        x.masked_select(x > 1)
        torch.nonzero(x)
        torch.tensor(3)
        x[x < 1]
    assert watch.waits == {
        "aten._local_scalar_dense": 1,
        "bool index": 2,
        "aten.masked_select": 1,
        "aten.nonzero": 1,
        "aten.lift_fresh": 1,
    }


def whole_step(networks: Networks, **options: Any) -> Counter[str]:
    """What forward and backward of one update wait for."""
    assert isinstance(networks["student"], NetworkDenoiser)
    algorithm = Di4C(networks["student"].process, latents=N, **options)
    generator, data = torch.Generator().manual_seed(0), tiny.batch(3)
    with Watch() as watch:
        losses = algorithm.losses(data, networks, Update(generator, 1, 2))
        losses.total.backward()
    return watch.waits


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("process", [tiny.masked(), Uniform(tiny.TOKENS, leave_one_out=True)])
def test_a_step_asks_for_one_number_the_count_of_positions(latent: str, process: Process) -> None:
    networks = tiny.networks(process, LATENTS[latent], teacher={"name": "adaln"})
    assert whole_step(networks, loss="chunked") == {"aten._local_scalar_dense": 1}


@pytest.mark.parametrize("loss", ["checkpoint", "two_pass"])
def test_the_other_paths_by_hidden_states_too(loss: str) -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    assert whole_step(networks, loss=loss) == {"aten._local_scalar_dense": 1}


def test_without_hidden_states_it_asks_for_none() -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"], config=tiny.TRANSFORMER)
    for loss in ("naive", "two_pass"):
        assert whole_step(networks, loss=loss) == {}


def test_on_a_cpu_the_coin_of_prior_share_is_a_number_more() -> None:
    """On an accelerator the host tosses it itself, see tests/diffusion/test_categorical.py."""
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    for share in (0.5, 1.0):
        waits = whole_step(networks, loss="chunked", prior_share=share)
        assert waits == {"aten._local_scalar_dense": 2}


@pytest.mark.gpu
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("prior_share", [0.0, 0.5])
def test_a_step_never_waits_for_the_gpu(loss: str, prior_share: float) -> None:
    made = tiny.networks(tiny.masked(), LATENTS["adaln"])
    device = torch.device("cuda")
    networks = {k: v.to(device) for k, v in made.items() if isinstance(v, torch.nn.Module)}
    algorithm = Di4C(tiny.masked(), latents=N, loss=loss, prior_share=prior_share)
    generator = torch.Generator(device).manual_seed(0)
    data = Batch(tiny.batch(3).x_0.to(device))
    for step in range(6):
        # The first one sets up libraries and pinned memory.
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            losses = algorithm.losses(data, networks, Update(generator, 1, 2))
            losses.total.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert losses.total.isfinite()


# Choice and errors


def test_the_path_is_chosen_by_what_the_networks_can() -> None:
    heads = tiny.trio(tiny.networks(tiny.masked(), LATENTS["adaln"]))
    logits = tiny.trio(tiny.networks(tiny.masked(), LATENTS["adaln"], config=tiny.TRANSFORMER))
    mixed = replace(heads, teacher=logits.teacher)
    assert choose_loss("auto", heads, tiny.masked()) == "chunked"
    assert (
        choose_loss("auto", logits, tiny.masked())
        == choose_loss("auto", mixed, tiny.masked())
        == "naive"
    )
    assert [choose_loss(loss, heads, tiny.masked()) for loss in LOSSES] == list(LOSSES)
    for networks in (logits, mixed, replace(heads, target=logits.student)):
        for loss in ("checkpoint", "chunked"):
            with pytest.raises(UserError, match=f"loss={loss} needs networks with hidden states"):
                choose_loss(loss, networks, tiny.masked())
        assert [choose_loss(loss, networks, tiny.masked()) for loss in ("naive", "two_pass")] == [
            "naive",
            "two_pass",
        ]


def test_a_teacher_without_a_head_beside_a_student_with_one() -> None:
    heads = tiny.networks(tiny.masked(), LATENTS["adaln"])
    logits = tiny.networks(tiny.masked(), LATENTS["adaln"], config=tiny.TRANSFORMER)
    mixed = {**heads, "teacher": logits["teacher"]}
    want = update(mixed, "naive", tiny.batch(3))
    for loss in ("auto", "two_pass"):
        compare(update(mixed, loss, tiny.batch(3)), want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "triton"}, "unknown loss 'triton'; there are auto, naive, checkpoint, chunked"),
        ({"loss": "chunked", "partial": True}, "partial=true goes with loss=naive"),
        ({"loss": "two_pass", "partial": True}, "partial=true goes with loss=naive"),
        ({"loss_mb": 0}, "loss_mb must be at least 1, not 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Di4C(tiny.masked(), **options)


def test_chunks_without_hidden_states_are_refused() -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"], config=tiny.TRANSFORMER)
    with pytest.raises(UserError, match="use two_pass"):
        update(networks, "chunked", tiny.batch(2))


def test_a_window_of_all_positions_changes_nothing_and_smaller_ones_do() -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["token"])
    want = update(networks, "chunked", tiny.batch(4))
    found = update(networks, "chunked", tiny.batch(4), windows=(tiny.LENGTH,))
    compare(found, want)
    other = update(networks, "chunked", tiny.batch(4), windows=(2,))
    for name in ("data_corr", "consis_corr"):
        assert other.losses.terms[name] != want.losses.terms[name]


def test_partial_steps_take_the_naive_path() -> None:
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    found = update(networks, "auto", tiny.batch(4), partial=True)
    compare(found, update(networks, "naive", tiny.batch(4), partial=True))
    whole = update(networks, "naive", tiny.batch(4))
    assert found.losses.terms["consis_corr"] != whole.losses.terms["consis_corr"]


def test_a_process_that_ranks_positions_is_never_cut() -> None:
    process = Confidence(tiny.TOKENS, LogLinear(), mask=tiny.MASK)
    networks = tiny.networks(tiny.masked(), LATENTS["adaln"])
    assert choose_loss("auto", tiny.trio(networks), process) == "naive"
    for loss in ("chunked", "checkpoint"):
        with pytest.raises(UserError, match=f"^loss={loss} .* process=confidence ranks: use naive"):
            choose_loss(loss, tiny.trio(networks), process)
    with pytest.raises(UserError, match="^partial=true needs .*: not process=confidence$"):
        Di4C(process, partial=True)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    naive, two_pass = (
        Di4C(process, latents=N, loss=loss).losses(tiny.batch(3), networks, Update(generator)).total
        for loss, generator in zip(("naive", "two_pass"), generators, strict=True)
    )
    torch.testing.assert_close(naive, two_pass)
