"""What is registered without a YAML file is chosen by its name, by `di4c train` and in hosts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin import load_student
from di4c_plugin.cli.main import main
from di4c_plugin.plugin_configs import SEARCH_PATH
from di4c_plugin.plugins import get_manager
from di4c_plugin.training.compose import compose_config
from tests import plain_plugin
from tests.hydra_root.test_search_path import EVERY_HOST, composed, configs

__all__ = ["configs"]  # a fixture

QUICK = ("training.steps=1", "training.batch_size=2", "training.logger=none")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(plain_plugin.install(tmp_path / "site"))
    get_manager.cache_clear()
    yield
    monkeypatch.undo()
    get_manager.cache_clear()


@pytest.mark.usefixtures("plugin")
def test_a_run_of_registered_names_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    chosen = ["algo=naive", "latent=shift", "host=shaded", "latent.wave=0.2", "algo.strength=2"]
    assert main(["train", f"out={out}", *chosen, *QUICK]) == 0, capfd.readouterr().err
    student = load_student(out / "student.safetensors")
    assert student.latent == {"name": "shift", "features": 8, "wave": 0.2}
    assert student.info["algo"] == {"name": "naive", "latents": 2, "strength": 2, "extra": None}
    command = [
        "sample",
        str(out / "student.safetensors"),
        "--sampler",
        "lazy",
        "--option",
        "pace=2",
    ]
    assert main([*command, "--n", "2", "--out", str(tmp_path / "x.png")]) == 0


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.strength=much", "algorithm 'naive': strength must be a number, not 'much'"),
        ("algo.strenth=1", "unknown option 'algo.strenth'; there are extra, latents, name, stren"),
        ("latent.wave=[1]", "latent 'shift' cannot be made: wave must be a number, not [1]"),
        (
            "algo=niave",
            "unknown algo 'niave'; there are dcd, denoising, di4c, dimo, dmmd, ",
        ),
    ],
)
def test_its_options_are_checked_like_ours(
    override: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["algo=naive", "latent=shift"] if "algo=" not in override else []
    assert main(["train", f"out={tmp_path / 'run'}", *names, override, *QUICK]) == 2
    assert capfd.readouterr().err.startswith(f"di4c: error: {message}")


@pytest.mark.usefixtures("plugin")
@EVERY_HOST
def test_a_host_knows_them(configs: Path) -> None:
    config: dict[str, Any] = composed(
        configs, "algo=naive", "sampler=lazy", "teacher=x", "latent=shift"
    )
    assert config["algo"]["strength"] == 1.0
    assert config["algo"]["name"] in ("naive", "distillation")  # Duo's program reads the latter
    assert config["latent"] == {"name": "shift", "features": 8, "wave": 0.1}
    assert config["sampler"] | {"pace": 1, "steps": None} == config["sampler"]
    assert config["sampler"]["name"] == "lazy"
    assert config["teacher"] == "x"
    assert "di4c" in config["hydra"]["callbacks"]


def test_a_file_goes_before_what_is_registered() -> None:
    assert compose_config("train", ["algo=di4c", "latent=unet"])["algo"]["loss_mb"] == 128
    assert SEARCH_PATH.startswith("di4c://")
