"""`di4c train` and `train-teacher` with overrides of every kind: a run, or one line."""

import contextlib
import io
import shutil
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.families import new_model
from di4c_plugin.networks import TransformerConfig
from tests.campaigns.outcome import Tally
from tests.campaigns.strange import typed
from tests.campaigns.test_calls import ALGO, HOST, LATENT, PROCESS, TRAINING

QUICK = ("training.steps=1", "training.batch_size=1", "training.logger=none", "algo.latents=2")
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
    *(f"algo.{name}" for name in ALGO),
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
# Right, and long, or a second process.
LEFT_OUT = {"training.devices=2", "training.devices=3", "training.compile=true"}
COUNT = 1200
LONG = str(2**31)


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
    assert Path(out.getvalue().splitlines()[-1]).is_file(), out.getvalue()


def campaign(folder: Path, count: int, *, fresh: bool) -> None:
    tally = Tally()
    sizes = TransformerConfig(17, 18, (8, 8), (4, 4), 8, 4, 1, 2, mask=17)
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
        key = draw.draw(st.sampled_from(TRAIN if command == "train" else TEACHER))
        override = f"{key}={draw.draw(typed)}"
        if override in LEFT_OUT or LONG in override:
            return
        shutil.rmtree(folder / "run", ignore_errors=True)
        start = [command, "out=run", *QUICK[:3]]
        start += [QUICK[3], "teacher=teacher.safetensors"] if command == "train" else small
        start += ["latent=adaln"] if key.startswith("latent.") else []
        arguments = [*start, override]
        tally.read(override, partial(run, arguments))

    once()
    assert (folder / "teacher.safetensors").is_file()
    tally.check(count // 2)


def test_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, 60, fresh=False)


@pytest.mark.campaign
def test_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path, COUNT, fresh=True)
