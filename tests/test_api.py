import copy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.announce import announce_once
from di4c_plugin.api import (
    LoadedModel,
    distill,
    load_student,
    load_teacher,
    sample,
    save_student,
)
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model, student_of
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.samplers import Step
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.interrupt import Interrupted
from tests.training import toy

TINY = TransformerConfig(
    num_tokens=3,
    num_states=4,
    grid=(1, 4),
    hidden_size=8,
    embedding_size=4,
    num_blocks=1,
    num_heads=2,
    mask=3,
)
DATA = Data(torch.arange(12).view(3, 4) % 3)
RUN = TrainingConfig(steps=3, batch_size=4, accelerator="cpu")


@pytest.fixture
def teacher() -> Model:
    torch.manual_seed(0)
    return new_model(TINY, Absorbing(3))


@pytest.fixture
def labelled() -> Model:
    """A teacher that takes the labels 0 and 1, and follows them."""
    torch.manual_seed(0)
    model = new_model(replace(TINY, num_classes=2), Absorbing(3))
    with torch.no_grad():
        model.denoiser.get_parameter("network.label.weight").mul_(20)
    return model


@pytest.fixture
def student(teacher: Model) -> Model:
    return student_of(teacher, {"name": "token"})


def weights(model: Model) -> Tensor:
    return torch.cat([weight.flatten() for weight in model.denoiser.state_dict().values()])


def train(teacher: Model, seed: int = 0, **options: Any) -> Model:
    return distill(teacher, DATA, training=replace(RUN, seed=seed), progress=False, **options)


class StopAfter(Callback):
    """Ctrl-C after so many updates, once."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == self.updates:
            signal.raise_signal(signal.SIGINT)


# ---- importing


def test_the_package_is_imported_without_torch() -> None:
    source = (
        "import sys, di4c_plugin; assert not {'torch', 'lightning', 'hydra'} & {*sys.modules}; "
        "from di4c_plugin import distill, load_student, load_teacher, sample; assert sample"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["api", "training.compose", "bench.child"])
def test_lightning_is_imported_by_runs_alone(module: str) -> None:
    """It takes seconds, and sampling, measuring and a mistake in a config need nothing of it."""
    source = (
        f"import sys, di4c_plugin.{module}; "
        "assert not {'lightning', 'torchmetrics', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", source], check=True)


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    import di4c_plugin

    with pytest.raises(AttributeError, match="module 'di4c_plugin' has no attribute 'undistill'"):
        _ = di4c_plugin.undistill


# ---- load_teacher, load_student


def test_the_default_teacher_is_the_one_of_the_digits() -> None:
    teacher = load_teacher()
    assert (teacher.network.positions, teacher.is_student) == (64, False)


def test_a_student_is_loaded_as_student_and_as_teacher(student: Model, tmp_path: Path) -> None:
    student.save(tmp_path / "student.safetensors")
    for load in (load_student, load_teacher):
        assert weights(load(tmp_path / "student.safetensors")).equal(weights(student))


def test_a_teacher_is_no_student(teacher: Model, tmp_path: Path) -> None:
    teacher.save(tmp_path / "teacher.safetensors")
    with pytest.raises(UserError, match="^.*teacher.safetensors is a teacher, not a student"):
        load_student(tmp_path / "teacher.safetensors")


# ---- distill


def test_distill_returns_a_student_ready_for_use_and_leaves_the_teacher_alone(
    teacher: Model,
) -> None:
    before = weights(teacher)
    student = train(teacher)
    assert student.latent == {"name": "adaln"}
    assert not student.denoiser.training
    assert weights(teacher).equal(before)
    assert sample(student, 2, steps=2).shape == (2, 4)


def test_equal_seeds_give_equal_students(teacher: Model) -> None:
    a, b, other = (train(teacher, seed=seed) for seed in (1, 1, 2))
    assert weights(a).equal(weights(b))
    assert not weights(a).equal(weights(other))


def test_without_a_folder_nothing_is_written(
    teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(teacher)
    assert list(tmp_path.iterdir()) == []


def test_the_student_in_the_folder_is_the_one_returned(teacher: Model, tmp_path: Path) -> None:
    student = train(teacher, out=str(tmp_path / "run"), latent={"name": "token", "dim": 2})
    saved = load_student(tmp_path / "run" / "student.safetensors")
    assert weights(saved).equal(weights(student))
    assert saved.latent == {"name": "token", "dim": 2}
    assert saved.info["algo"].items() >= {"name": "di4c", "latents": 8}.items()
    with pytest.raises(UserError, match="holds another run"):
        train(teacher, out=tmp_path / "run")


@pytest.mark.parametrize("how", ["path", "scheme", "link", "host"])
def test_distill_never_replaces_its_teacher(
    teacher: Model, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    file = run / "student.safetensors"
    train(teacher, out=run)
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(run)
    source = {"scheme": f"file:{file}", "link": str(tmp_path / "link")}.get(how, file.name)
    loaded = load_student(source, host={"name": "builtin"} if how == "host" else None)
    monkeypatch.chdir(tmp_path)  # what was loaded by a relative path is known all the same
    for again in ("resume", "overwrite"):
        with pytest.raises(UserError, match=f"^{file} is what this run reads, and it would be"):
            train(loaded, out=run, **{again: True})
    assert file.read_bytes() == before


def test_where_a_model_was_loaded_from_is_not_saved_with_it(teacher: Model, tmp_path: Path) -> None:
    teacher.save(tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    assert loaded.file == tmp_path / "teacher.safetensors"
    student = train(loaded, out=tmp_path / "run")
    assert isinstance(student, LoadedModel)
    assert (student.file, load_teacher().file) == (None, None)
    student.save(tmp_path / "student.safetensors")
    for path in (*tmp_path.glob("run/*.*"), tmp_path / "student.safetensors"):
        assert b"teacher.safetensors" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "nowhere"}, "unknown host 'nowhere'; there are builtin"),
        ({"algo": {"name": "di5c"}}, r"unknown algorithm 'di5c' \(did you mean 'di4c'\?\)"),
        ({"algo": {"lambdas": 2}}, "algorithm 'di4c': .*'lambdas'.*; it takes latents, "),
        ({"latent": {"name": "spell"}}, "unknown latent 'spell'; there are adaln, "),
        ({"latent": {"width": 2}}, "latent 'adaln' cannot be made: .*'width'"),
        (
            {"algo": {"name": "denoising"}, "latent": {"name": "token"}},
            "algorithm 'denoising' makes no mixture: leave out the latent",
        ),
    ],
)
def test_distill_refuses_what_it_does_not_know(
    options: dict[str, Any], message: str, teacher: Model
) -> None:
    with pytest.raises(UserError, match=f"^{message}.*$"):
        train(teacher, **options)


def test_a_recipes_latent_is_not_for_a_method_without_one(teacher: Model) -> None:
    """The recipe of D-MMD on the digits names a latent; without input noise there is none."""
    student = train(teacher, algo={"name": "dmmd", "input_noise": False})
    assert student.latent is None


# ---- sample


@pytest.mark.parametrize(("n", "steps", "batch_size"), [(1, 1, 250), (5, 3, 2), (4, 9, 4)])
def test_samples_are_tokens_whatever_the_sizes(
    n: int, steps: int, batch_size: int, teacher: Model, student: Model
) -> None:
    for model in (teacher, student):
        x = sample(model, n, steps=steps, batch_size=batch_size)
        assert (x.shape, x.dtype) == ((n, 4), torch.long)
        assert ((x >= 0) & (x < 3)).all()


def test_equal_seeds_give_equal_samples(student: Model) -> None:
    a, b, other = (sample(student, 50, steps=2, seed=seed) for seed in (1, 1, 2))
    assert a.equal(b)
    assert not a.equal(other)


def test_batches_are_drawn_one_after_the_other(teacher: Model) -> None:
    done: list[int] = []
    x = sample(teacher, 120, steps=1, batch_size=50, on_batch=done.append)
    assert done == [50, 100, 120]
    assert x[:50].equal(sample(teacher, 50, steps=1))
    assert not x[:50].equal(x[50:100])


@pytest.mark.parametrize("sampler", ["ancestral", "hybrid", "maskgit", "halton"])
def test_whoever_watches_sees_every_step_of_every_batch(teacher: Model, sampler: str) -> None:
    seen: list[Step] = []
    options: dict[str, Any] = {"steps": 3, "batch_size": 2, "sampler": sampler}
    if sampler == "hybrid":
        options |= {"teacher": teacher, "teacher_steps": 1}
    x = sample(teacher, 5, on_step=seen.append, **options)
    assert [step.index for step in seen] == [0, 1, 2] * 3
    assert [len(step.x) for step in seen] == [2] * 6 + [1] * 3
    assert torch.cat([step.x for step in seen[2::3]]).equal(x)
    assert x.equal(sample(teacher, 5, **options))


def test_a_network_call_a_step(teacher: Model) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    teacher.denoiser.register_forward_hook(count)
    sample(teacher, 3, steps=5)
    assert calls == 5


def test_hybrid_takes_a_teacher(teacher: Model, student: Model) -> None:
    later: dict[str, Any] = {"sampler": "hybrid", "teacher": teacher}
    both = sample(student, 50, steps=2, teacher_steps=2, **later)
    assert both.equal(sample(teacher, 50, steps=2))
    none = sample(student, 50, steps=2, teacher_steps=0, **later)
    assert none.equal(sample(student, 50, steps=2))


def test_a_loaded_model_samples_by_itself(student: Model, tmp_path: Path) -> None:
    student.save(tmp_path / "student.safetensors")
    loaded = load_student(tmp_path / "student.safetensors")
    assert loaded.sample(9, seed=3).equal(sample(student, 9, steps=8, seed=3))
    assert loaded.sample(9, steps=2, batch_size=4).equal(sample(student, 9, steps=2, batch_size=4))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sampler", ["ancestral", "hybrid"])
def test_given_tokens_stay(sampler: str, steps: int, teacher: Model, student: Model) -> None:
    partner = {"teacher": teacher, "teacher_steps": 1} if sampler == "hybrid" else {}
    options: dict[str, Any] = {"steps": steps, "sampler": sampler, "batch_size": 3} | partner
    loaded = LoadedModel.of(student)
    x = loaded.sample(8, prefix=[2, 0], **options)
    assert (x[:, :2] == torch.tensor([2, 0])).all()
    prefix = torch.arange(8).view(8, 1) % 3
    assert loaded.sample(8, prefix=prefix, **options)[:, :1].equal(prefix)
    tokens, mask = torch.arange(32).view(8, 4) % 3, torch.rand(8, 4) < 0.5
    mask[:, 0] = False
    x = loaded.sample(8, known=(tokens, mask), **options)
    assert x[mask].equal(tokens[mask])
    assert x.max() < 3


def test_samplers_get_their_options(student: Model) -> None:
    fresh, fixed = (sample(student, 50, steps=3, latents=kind) for kind in ("fresh", "fixed"))
    assert not fresh.equal(fixed)


def test_each_sample_has_its_label(labelled: Model) -> None:
    zeros, ones, none = (torch.full((40,), label) for label in (0, 1, -1))
    x = {
        name: sample(labelled, 40, steps=1, cond=cond)
        for name, cond in {"0": zeros, "1": ones, "-1": none, "None": None}.items()
    }
    mixed = sample(labelled, 40, steps=1, cond=torch.cat([zeros[:20], ones[:20]]))
    assert not x["0"].equal(x["1"])
    assert mixed.equal(torch.cat([x["0"][:20], x["1"][20:]]))
    assert x["-1"].equal(x["None"])


def test_labels_are_cut_into_batches_like_the_samples(labelled: Model) -> None:
    cond = torch.tensor([0, 1, 0, 1, 1])
    seen: list[Tensor] = []
    labelled.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["cond"]), with_kwargs=True
    )
    sample(labelled, 5, steps=1, cond=cond, batch_size=2)
    assert [batch.tolist() for batch in seen] == [[0, 1], [0, 1], [1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n and batch_size must be at least 1, not 0 and 250"),
        ({"batch_size": 0}, "n and batch_size must be at least 1, not 2 and 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"n": 10**14}, "n is at most 100000000, not 100000000000000 .DI4C_LIMITS=off lifts"),
        ({"n": 2.5}, "n must be a whole number, not 2.5"),
        ({"cond": [0, 1]}, r"cond must be a Tensor, not \[0, 1\]"),
        ({"guidance": "abc"}, "sampler 'ancestral': guidance must be a number, not 'abc'"),
        ({"on_step": 3}, "on_step must be something to call, not 3"),
        ({"sampler": 3}, "sampler must be text, not 3"),
        ({"seed": -1}, r"seed must be in \[0, 2\^63\), not -1"),
        ({"sampler": "ancestry"}, "unknown sampler 'ancestry'.*; there are .*ancestral.*hybrid"),
        ({"temperature": 2}, "sampler 'ancestral': .*unexpected keyword argument 'temperature'"),
        ({"sampler": "hybrid"}, "sampler 'hybrid': missing a required argument: 'teacher'"),
        ({"latents": "stale"}, "unknown latent policy 'stale'; there are "),
        ({"prefix": [3]}, "3 is no token of this model: 0 ... 2 without the mask 3"),
        ({"prefix": [0] * 4}, "a prefix of 4 tokens does not fit 4 positions"),
        ({"known": ([0] * 4, [1] * 4)}, "every token is given: nothing is left to sample"),
        ({"cond": torch.zeros(2, dtype=torch.long)}, "this model takes no class labels"),
        ({"device": "abacus"}, "cannot use device 'abacus': Expected one of cpu, cuda, "),
        pytest.param(
            {"device": "cuda"},
            "cannot use device 'cuda': ",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_sample_refuses_in_one_line(options: dict[str, Any], message: str, teacher: Model) -> None:
    with pytest.raises(UserError, match=f"^{message}.*$"):
        sample(teacher, **{"n": 2, "steps": 1} | options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 2], "class labels of this model are 0 ... 1, or -1 for none"),
        ([-2, 0], "class labels of this model are 0 ... 1, or -1 for none"),
        ([0], r"2 samples take 2 class labels, not a tensor of \(1,\)"),
    ],
)
def test_labels_that_the_model_does_not_know_are_refused(
    labels: list[int], message: str, labelled: Model
) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        sample(labelled, 2, steps=1, cond=torch.tensor(labels))


def test_a_hybrid_of_strangers_is_refused(student: Model) -> None:
    longer = new_model(replace(TINY, grid=(1, 5)), Absorbing(3))
    unmasked = new_model(replace(TINY, num_states=3, mask=None), Uniform(3))
    for stranger in (longer, unmasked):
        with pytest.raises(UserError, match="^teacher does not go with this model: "):
            sample(student, 2, steps=2, sampler="hybrid", teacher=stranger, teacher_steps=1)


def test_a_student_goes_on_from_a_student(teacher: Model) -> None:
    first = train(teacher)
    going = train(teacher, start=first, seed=1)
    untouched = distill(
        teacher, DATA, training=replace(RUN, lr=0.0, ema=0.0), start=first, progress=False
    )
    assert (going.latent, going.role) == (first.latent, "student")
    assert torch.equal(weights(untouched), weights(first))
    assert not torch.equal(weights(going), weights(first))
    assert going.info["algo"]["name"] == "di4c"


@pytest.mark.parametrize("algo", ["di4c", "dmmd", "sdtt"])
@pytest.mark.parametrize("latent", [{"name": "token", "dim": 2}, {"name": "token"}, None])
def test_what_becomes_of_the_teachers_latent_is_said(
    student: Model, algo: str, latent: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is taken over if it is the same: then there is nothing to say."""
    announce_once.cache_clear()
    made = train(student, algo={"name": algo}, latent=latent)
    told = [line for line in capsys.readouterr().err.splitlines() if "carried over" in line]
    if made.latent == student.latent:
        assert told == []
    else:
        own = "none" if made.latent is None else f"a new one, {made.latent}"
        line = f"di4c: the teacher's latent {student.latent} is not carried over: the student has"
        assert told == [f"{line} {own}"]


def test_the_latent_of_a_student_that_goes_on_is_its_own(
    student: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    announce_once.cache_clear()
    train(student, start=student_of(student, {"name": "token", "dim": 2}))
    assert "carried over" not in capsys.readouterr().err


@pytest.mark.parametrize("role", ["teacher", "start"])
@pytest.mark.parametrize("steps", [3, 6])
def test_another_file_of_the_same_name_is_another_run(
    teacher: Model, tmp_path: Path, role: str, steps: int
) -> None:
    """Whether the run has ended or not; what earlier versions wrote goes on."""
    start = train(teacher)
    models = {"teacher": teacher, "start": start}

    def go(steps: int, **changed: Model) -> Model:
        given = models | changed
        config = replace(RUN, steps=steps, checkpoint_every=2, schedule="constant", warmup=0.0)
        return distill(
            given["teacher"],
            DATA,
            training=config,
            start=given["start"],
            out=tmp_path / "run",
            resume=True,
            progress=False,
            callbacks=[StopAfter(3)],
        )

    try:
        go(steps)
    except Interrupted:
        assert steps == 6
    other = copy.deepcopy(models[role])
    with torch.no_grad():
        next(other.denoiser.parameters()).add_(1)
    message = rf"run is another run: weights.{role} was 'sha256 \w+', and is 'sha256 \w+' now"
    with pytest.raises(UserError, match=message):
        go(steps, **{role: other})
    config = tmp_path / "run/config.yaml"
    plain: Any = OmegaConf.load(config)
    del plain["weights"]
    OmegaConf.save(plain, config)
    go(steps, **{role: other})


def test_a_start_that_does_not_go_with_the_method_is_refused(teacher: Model) -> None:
    first = train(teacher)
    other = load_teacher("builtin:digits")
    for options, message in (
        ({"start": first, "latent": {"name": "token"}}, "has the latent"),
        ({"start": teacher}, "has no latent, and this method needs one"),
        ({"start": replace(other, role="student")}, "another network"),
    ):
        with pytest.raises(UserError, match=message):
            train(teacher, **options)


def test_what_a_method_says_of_sampling_is_kept_and_used(teacher: Model, tmp_path: Path) -> None:
    said = {"steps": 3, "latents": "fresh"}
    student = LoadedModel.of(replace(train(teacher), sampling=said))
    save_student(student, tmp_path)
    again = load_student(tmp_path)
    assert again.sampling == said
    assert "fresh" in (tmp_path / "README.md").read_text()
    assert torch.equal(again.sample(5), sample(again, 5, steps=3, latents="fresh"))
    assert torch.equal(again.sample(5, steps=2), sample(again, 5, steps=2, latents="fresh"))
    assert torch.equal(again.sample(5, latents="fixed"), sample(again, 5, steps=3, latents="fixed"))


def test_what_is_no_host_is_one_line() -> None:
    host: Any = torch.device("cpu")
    with pytest.raises(UserError, match="^host must be a name or a mapping of options, not device"):
        distill(toy.teacher(), toy.data(), host=host)
