"""Which sampler, which options, which network; temperatures; what a trace keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.programs.images.sampler import HostSampler, Request, host_generator
from di4c_plugin.programs.images.shared import SharedNetworks, tensors_of
from di4c_plugin.programs.images.trace import Trace, Traced
from di4c_plugin.samplers.base import Step
from di4c_plugin.samplers.guidance import Guided
from tests.stand_ins.images import small_halton, small_maskgit
from tests.stand_ins.images.checkouts import stand_in
from tests.stand_ins.images.small_maskgit import COND, NETS, SIZES, T, X
from tests.stand_ins.images.trainers import student_of


@pytest.fixture
def place(make_host: Any) -> Path:
    return stand_in(make_host("maskgit"), "maskgit")


@pytest.fixture
def own(place: Path) -> Any:
    network = small_maskgit.plain(place)
    return SharedNetworks(NETS, place).of(network, tensors_of(network), heads=2, codes=7)


@pytest.fixture
def student(place: Path) -> Model:
    return student_of(NETS, small_maskgit.plain(place), SIZES, place)


class Plain(HostSampler):
    """A host that asks for what it is told to."""

    host = "maskgit"

    def request(self, own: Any, steps: int, process: Any = None, **options: Any) -> Request:
        """Four samples of nine codes."""
        x, cond = torch.full((4, 9), 7), torch.tensor([0, 1, 2, 3])
        defaults = {"guidance": 1.5, "randomize": True, "temperature": 2.0} | options
        return Request(own, x, self.steps_of(steps), process or own.process, defaults, cond)

    def result(self, drawn: Trace, *args: Any, **kwargs: Any) -> Trace:
        """The trace itself."""
        return drawn


@pytest.mark.parametrize(
    ("sampler", "asked", "line"),
    [
        ("di4d", {}, "unknown sampler 'di4d' .did you mean 'di4c'."),
        ("ancestral", {"options": {"order": 1}}, "'ancestral': .* unexpected .* 'order'"),
        ("ancestral", {"options": {"latents": "cold"}}, "unknown latent policy 'cold'"),
        ("ancestral", {"options": {"steps": 0}}, "steps must be a whole number from 1, not 0"),
        ("ancestral", {"options": {"steps": "x"}}, "steps must be a whole number from 1, not 'x'"),
        ("hybrid", {"options": {"teacher_steps": 1}}, "'hybrid' is for a student: add --student"),
        ("di4c", {"student": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_mistakes(sampler: str, asked: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Plain(sampler, **asked)


def test_hybrid_needs_its_steps(student: Model) -> None:
    with pytest.raises(UserError, match="missing a required argument: 'teacher_steps'"):
        Plain("hybrid", student=student)
    assert (
        Plain("hybrid", options={"teacher_steps": 1}, student=student).options["teacher"] == "host"
    )


def test_a_student_of_something_else_is_refused(own: Any, student: Model, place: Path) -> None:
    with pytest.raises(UserError, match="is a teacher, not a student"):
        Plain("ancestral", student=replace(student, role="teacher"))
    with pytest.raises(UserError, match="is a student of 'halton_maskgit', not of 'maskgit'"):
        Plain("ancestral", student=replace(student, network=small_halton.SIZES))
    other = replace(SIZES, classes=4)
    network = NETS.at(place).build(other)
    with pytest.raises(UserError, match="the student has classes 4, and this program 5"):
        Plain("ancestral", student=student_of(NETS, network, other, place)).denoiser(own)


def test_options_are_the_hosts_then_the_users(
    own: Any, student: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = Plain("maskgit", options={"temperature": 1.0, "steps": 5})
    assert chosen.steps_of(3) == 5
    chosen(own, 3)
    line = (
        "sampler maskgit: the host's network, 5 steps, process confidence schedule=arccos "
        "temperature=4.5, guidance=1.5, temperature=1.0\n"
    )
    assert line in capsys.readouterr().err
    assert Plain("ancestral").steps_of(3) == 3


def test_equal_seeds_give_equal_samples_and_the_student_is_used(own: Any, student: Model) -> None:
    found = []
    for model in (None, None, student):
        torch.manual_seed(3)
        found.append(Plain("ancestral", model)(own, 3).x)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], Plain("ancestral")(own, 3).x)  # the host's generator went on


def test_hybrid_ends_with_the_hosts_network(
    own: Any, student: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name, network in (("student", student.denoiser.network), ("teacher", own.network)):
        network.register_forward_hook(lambda *args, name=name: calls.append(name))
    chosen = Plain("hybrid", options={"teacher_steps": 2}, student=student)
    trace = chosen(own, 3, guidance=0.0)
    assert calls == ["student", "teacher", "teacher"]
    assert int(trace.x.max()) < 7
    calls.clear()
    Plain("maskgit", student, {"guidance_teacher": "host"})(own, 2)
    assert calls == ["student", "teacher"] * 2


def test_a_trace_keeps_states_and_predictions_of_the_shown_steps(own: Any) -> None:
    trace = Plain("halton")(own, 3)
    assert len(trace.before) == len(trace.after) == len(trace.predicted) == 3
    assert bool((trace.before[0] == 7).all())
    assert torch.equal(trace.before[1], trace.after[0])
    assert torch.equal(trace.after[2], trace.x)
    with_labels = own(trace.before[1], torch.ones(4), cond=torch.tensor([0, 1, 2, 3]))
    assert torch.equal(trace.predicted[1], with_labels.argmax(-1))
    some = Trace(torch.zeros(1, 1), [1])
    for index in range(3):
        some.on_prediction(torch.eye(3)[None, index : index + 1])
        some.on_step(Step(index, 1.0, 0.0, torch.tensor([[index + 1]])))
    assert (some.before, some.after) == ([torch.tensor([[1]])], [torch.tensor([[2]])])
    assert some.predicted == [torch.tensor([[1]])]


@torch.no_grad()
def test_temperatures_are_of_the_guided_logits(own: Any) -> None:
    trace, softmax = Trace(X), [1.3, 0.5]
    traced = Traced(own, trace, softmax, torch.no_grad)
    guided = Guided(traced, 2.0, times=time_grid(2), ramp="constant")
    logits_c = own.logits(X, T, COND, None)
    logits_u = own.logits(X, T, torch.full((2,), -1), None)
    for step, factor in enumerate(softmax):
        trace.step = step
        found = guided(X, T, cond=COND)[..., :7]
        expected = (factor * (3 * logits_c - 2 * logits_u))[..., :7].log_softmax(-1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_generators_follow_the_host_and_differ_by_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(rank: int | None) -> Tensor:
        torch.manual_seed(0)
        with monkeypatch.context() as patch:
            if rank is not None:
                patch.setattr(torch.distributed, "is_initialized", lambda: True)
                patch.setattr(torch.distributed, "get_rank", lambda: rank)
            return torch.rand(4, generator=host_generator(torch.device("cpu")))

    assert torch.equal(first(None), first(0))
    assert not torch.equal(first(0), first(1))


def test_the_processes_own_steps_are_made(own: Any) -> None:
    """Ancestral sampling of plain masked diffusion opens where it likes, not what is confident."""
    process = Absorbing(8, mask=7)
    chosen = Plain("ancestral")
    torch.manual_seed(0)
    trace = chosen.run(Request(own, torch.full((200, 9), 7), 2, process))
    opened = (trace.after[0] != 7).sum(1)
    assert 3.5 < float(opened.double().mean()) < 5.5
    assert len(opened.unique()) > 3
