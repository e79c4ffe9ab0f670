"""Python calls with arguments of every kind: an answer that is right, or one line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from di4c_plugin import distill, load_student, load_teacher, sample, save_student
from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing, build_process
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.training.config import TrainingConfig
from tests.campaigns.outcome import Tally
from tests.campaigns.strange import values

SAMPLERS = ("ancestral", "di4c", "halton", "hybrid", "maskgit", "tau_leaping", "analytic")
SAMPLE = (
    *("n", "steps", "seed", "sampler", "cond", "prefix", "known", "batch_size", "device"),
    *("latents", "guidance", "guidance_ramp", "guidance_teacher", "min_time", "last"),
    *("last_latents", "teacher", "teacher_steps", "temperature", "counts", "grid", "randomize"),
    *("corrector_steps", "corrector_size", "on_batch", "on_step", "foo", "process", "callback"),
)
TRAINING = tuple(TrainingConfig.__dataclass_fields__)
ALGO = (
    *("latents", "states", "prior_share", "stratified", "delta", "delta_share", "delta_t", "alpha"),
    *(
        "delta_t_end",
        "min_time",
        "partial",
        "label_dropout",
        "weights",
        "loss",
        "loss_mb",
        "target",
    ),
    *("name", "foo"),
)
PROCESS = (
    *("name", "num_tokens", "schedule", "mask", "eps", "temperature", "grid", "randomize"),
    *("leave_one_out", "rate_sigma", "q_sigma", "time_base", "time_exponential"),
)
LATENT = ("name", "dim", "features", "std", "blocks", "foo")
HOST = ("name", "data", "heads", "classes", "process", "image_size", "mirror", "dropout", "root")
DATA = Data(torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]]))
ONE = TrainingConfig(steps=1, batch_size=1, logger="none")


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    torch.manual_seed(0)
    sizes = TransformerConfig(3, 4, (2, 2), hidden_size=8, embedding_size=4, num_heads=2, mask=3)
    teacher = new_model(sizes, Absorbing(3))
    student = new_model(sizes, Absorbing(3), {"name": "adaln", "dim": 1, "features": 8})
    return {"teacher": teacher, "student": student}


def options(names: tuple[str, ...], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), values, min_size=1, max_size=most)


def drawn(model: Model, asked: dict[str, Any]) -> None:
    """Sample, and look whether these are samples: of the number asked for, tokens, no masks."""
    many = {"n", "batch_size", "steps"} & asked.keys()
    if any(type(asked[name]) in (int, float) and asked[name] > 1000 for name in many):
        return  # right, and long
    x = sample(model, **{"n": 2, "steps": 2} | asked)
    assert (x.shape, x.dtype) == ((int(asked.get("n", 2)), 4), torch.int64)
    assert x.min() >= 0
    assert x.max() < 3


def configured(asked: dict[str, Any]) -> None:
    made = TrainingConfig(**asked)
    for name, value in asked.items():
        found = getattr(made, name)
        same = list(found) == list(value) if name == "betas" else bool(found == value)
        assert same, f"{name}={value!r} became {found!r}"
        assert type(value) is not bool or type(found) is bool, f"{name}={value!r} is {found!r}"


def called(
    draw: st.DataObject, models: dict[str, Model], folder: Path
) -> tuple[object, Callable[[], object]]:
    """Return what is called, in short, and the call."""
    kind = draw.draw(st.sampled_from(["sample"] * 8 + ["training"] * 3 + ["algo"] * 3 + OTHERS))
    teacher, student = models["teacher"], models["student"]
    asked: dict[str, Any]
    if kind == "sample":
        asked = draw.draw(options(SAMPLE))
        asked.setdefault("sampler", draw.draw(st.sampled_from(SAMPLERS)))
        if asked["sampler"] == "hybrid":
            asked = {"teacher": teacher, "teacher_steps": 1} | asked
        return asked, partial(drawn, student, asked)
    if kind == "training":
        asked = draw.draw(options(TRAINING))
        return asked, partial(configured, asked)
    quick: Any = partial(distill, teacher, DATA, training=ONE, progress=False)
    if kind in ("algo", "latent"):
        asked = small(draw.draw(options(ALGO if kind == "algo" else LATENT, 2)))
        return (kind, asked), partial(quick, **{kind: asked})
    if kind == "distill":
        names = ("algo", "latent", "start", "training", "host", "info", "resume", "overwrite")
        asked = {"data": DATA, "training": ONE} | draw.draw(options(names))
        if asked["training"] is None or (asked["training"] == {}) is True:
            asked["training"] = ONE  # the defaults are right, and long
        whole: Any = partial(distill, teacher, progress=False)
        return (kind, asked), partial(whole, **asked)
    if kind == "process":
        asked = {"num_tokens": 3, "name": "absorbing"} | draw.draw(options(PROCESS))
        return (kind, asked), partial(build_process, asked)
    if kind == "load":
        load = draw.draw(st.sampled_from([load_teacher, load_student]))
        host = draw.draw(st.one_of(values, options(HOST)))
        source, ema = draw.draw(values), draw.draw(values)
        return (kind, source, host, ema), partial(load, source, host=host, ema=ema)
    overwrite = draw.draw(values)
    return (kind, overwrite), partial(save_student, student, folder / "x", overwrite=overwrite)


OTHERS = ["latent", "distill", "process", "load", "save"]


def small(asked: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is right and would take long."""
    return {k: v for k, v in asked.items() if not (type(v) in (int, float) and v == 2**31)}


def campaign(models: dict[str, Model], folder: Path, count: int, *, fresh: bool) -> None:
    tally = Tally()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not fresh,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def once(draw: st.DataObject) -> None:
        what, call = called(draw, models, folder)
        tally.read(what, call)

    once()
    tally.check(count)


def test_a_few(models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(models, tmp_path, 120, fresh=False)


@pytest.mark.campaign
def test_many(models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(models, tmp_path, 2000, fresh=True)
