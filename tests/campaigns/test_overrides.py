"""`di4c train` and `train-teacher` with overrides of every kind: a run, or one line."""

import contextlib
import io
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from di4c_plugin.options import parameters
from di4c_plugin.overrides import elements, readable
from di4c_plugin.plugins import lookup
from di4c_plugin.training.folder import flat, read_config
from tests.campaigns.outcome import Tally
from tests.campaigns.strange import typed
from tests.campaigns.test_calls import HOST, LATENT, PROCESS, TRAINING

QUICK = ("training.steps=1", "training.batch_size=1", "training.logger=none")
# Methods that distil, each in one quick round.
METHODS = {
    "di4c": ("algo.latents=2",),
    "dmmd": (),
    "sdtt": ("algo.teacher_steps=4", "algo.steps=2"),
    "rsmmd": ("algo.candidates=2", "algo.fills=2", "algo.blocks=blocks.*"),
}
TRAIN = (
    *("teacher", "student", "out", "resume", "overwrite", "algo", "latent", "host", "experiment"),
    *(
        "training",
        "foo",
        "hydra",
        "recipe",
        "defaults",
        "+foo",
        "++algo.foo",
        "~algo.loss",
        "é",
        "",
    ),
    *("phases", "+phases.a", "+training.adapter.r", "phases.a", "training.adapter.blocks"),
    *(f"latent.{name}" for name in LATENT),
    *(f"host.{name}" for name in HOST),
    *(f"training.{name}" for name in TRAINING),
)
TEACHER = (
    *("algo", "process", "network", "out", "algo.min_time", "algo.label_dropout"),
    *(f"process.{name}" for name in PROCESS),
    *(
        f"network.{name}"
        for name in ("patch", "hidden_size", "embedding_size", "num_blocks", "num_heads")
    ),
    *("network.num_classes", "+network.grid", "+network.mask", "+network.foo"),
)
COUNT = 1200
# Options whose large values are right, and take long.
LONG = {
    *("steps", "accumulate", "batch_size", "latents", "states", "candidates", "fills", "substeps"),
    *("teacher_steps", "teacher_latents", "auxiliary_updates", "encoder_hidden", "encoder_blocks"),
    *("hidden_size", "num_blocks", "embedding_size", "dim", "features"),
}
MOST = 64


def is_left_out(key: str, value: str) -> bool:
    """Whether an override is right and takes long, or starts further processes.

    Lightning starts these by the command of this process: each would be a campaign of its own.
    """
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    return (
        (key == "training.devices" and number > 1)
        or (key == "training.compile" and value.lower() in ("true", "yes", "on", "1"))
        or (key.rpartition(".")[2] in LONG and MOST < number < 2**62)
    )


def run(arguments: list[str]) -> None:
    """Run the program; its one line becomes a UserError."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    if code == 2:
        told = err.getvalue()
        assert told.startswith("di4c: error: "), told
        assert told.count("\n") == 1, told
        raise UserError(told.removeprefix("di4c: error: ")[:-1])
    assert code == 0, err.getvalue()
    told = out.getvalue().removesuffix("\n")
    assert Path(told).is_file() or Path(told.splitlines()[-1]).is_file(), told


def check_taken(folder: Path, overrides: Iterable[str]) -> None:
    """A run that was made has the numbers and texts that it was told, and no other ones."""
    config = folder / "config.yaml"
    recorded = flat(read_config(config) or {}) if config.is_file() else {}
    told = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    for key, text in told.items():
        (value,) = elements(readable([f"{key}={text}"])[0])
        if key in recorded and isinstance(value, bool | int | float | str):
            same = recorded[key] == value or str(recorded[key]) == value
            assert same or "${" in str(value), f"{key}={text} became {recorded[key]!r}"


def campaign(folder: Path, count: int, *, fresh: bool) -> None:
    tally, left_out = Tally(), []
    sizes = TransformerConfig(17, 18, (8, 8), (1, 1), 8, 4, 1, 2, mask=17)
    new_model(sizes, Absorbing(17)).save(folder / "teacher.safetensors")
    small = ("network.hidden_size=8", "network.num_blocks=1", "network.num_heads=2")

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not fresh,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(["train"] * 3 + ["train-teacher"]), st.data())
    def once(command: str, draw: st.DataObject) -> None:
        start: list[str] = [command, "out=run", *QUICK]
        if command == "train":
            method = draw.draw(st.sampled_from([*["di4c"] * 2, *METHODS]))
            start += [f"algo={method}", *METHODS[method], "teacher=teacher.safetensors"]
            own = parameters(lookup("algorithm", method)) or {}
            keys = st.sampled_from(TRAIN) | st.sampled_from([f"algo.{name}" for name in own])
        else:
            start, keys = [*start, *small], st.sampled_from(TEACHER)
        drawn = draw.draw(st.lists(st.tuples(keys, typed), min_size=1, max_size=2))
        if any(is_left_out(*each) for each in drawn):
            left_out.append(drawn)
            return
        overrides = [f"{key}={value}" for key, value in drawn]
        start += ["latent=adaln"] if any(key.startswith("latent.") for key, _ in drawn) else []
        shutil.rmtree(folder / "run", ignore_errors=True)

        def go() -> None:
            run(start + overrides)
            check_taken(folder / "run", overrides)

        tally.read([*start[:1], *start[len(QUICK) + 2 :], *overrides], go)

    once()
    assert (folder / "teacher.safetensors").is_file()
    # Hypothesis draws some examples again.
    tally.check(3 * count // 4 - len(left_out))


@pytest.mark.slow
def test_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, 60, fresh=False)


@pytest.mark.campaign
def test_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, COUNT, fresh=True)
