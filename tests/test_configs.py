"""Every shipped config is composed, and what it describes is made."""

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.algorithms.di4c import Di4C
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts import Host
from di4c_plugin.models import Model
from di4c_plugin.training import TrainingConfig, make, make_algorithm
from di4c_plugin.training.compose import compose_config, compose_run, training_config

GROUPS = ("algo", "experiment", "host", "latent", "process", "training")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The attributes of an algorithm, ranges as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "process"}


def teacher(config: dict[str, Any]) -> Model:
    host = make("host", config["host"])
    assert isinstance(host, Host)
    return host.new_teacher(config["process"], **config["network"])


def test_every_config_is_tested_here() -> None:
    found = {path.relative_to(configs_dir()) for path in configs_dir().rglob("*.yaml")}
    grouped = {Path(group, f"{name}.yaml") for group in GROUPS for name in options(group)}
    assert found == grouped | {Path("train.yaml"), Path("train_teacher.yaml")}


@pytest.mark.parametrize("name", options("algo"))
def test_algo(name: str) -> None:
    config = compose_config("train", [f"algo={name}"])["algo"]
    process = teacher(compose_config("train_teacher", [])).process
    assert config["name"] == name
    assert isinstance(make_algorithm(config, process), Algorithm)


def test_the_default_di4c_is_that_of_the_class() -> None:
    config = compose_config("train", ["algo=di4c"])["algo"]
    process = teacher(compose_config("train_teacher", [])).process
    one, other = make_algorithm(config, process), Di4C(process)
    assert config.keys() - {"name"} == inspect.signature(Di4C).parameters.keys() - {"process"}
    assert plain(vars(one)) == plain(vars(other))


@pytest.mark.parametrize("name", options("experiment"))
def test_experiment(name: str) -> None:
    run = compose_run("train", [f"experiment={name}", "out=x"])
    process = teacher(compose_config("train_teacher", [])).process
    assert isinstance(make_algorithm(run.info["algo"], process), Algorithm)


@pytest.mark.parametrize("name", options("host"))
def test_host(name: str) -> None:
    host = make("host", compose_config("train", [f"host={name}"])["host"])
    assert len(host.data().x_0) > 0


@pytest.mark.parametrize("name", options("latent"))
def test_latent(name: str) -> None:
    config = compose_config("train", [f"latent={name}"])
    student = make("host", config["host"]).build_student(
        teacher(compose_config("train_teacher", [])), config["latent"]
    )
    assert student.latent == config["latent"]
    assert config["latent"]["name"] == name


@pytest.mark.parametrize("name", options("process"))
def test_process(name: str) -> None:
    config = compose_config("train_teacher", [f"process={name}"])
    assert teacher(config).process.config.items() >= config["process"].items()


@pytest.mark.parametrize("name", options("training"))
def test_training(name: str) -> None:
    training = compose_run("train", [f"training={name}", "out=x"]).training
    assert training == training_config(compose_config("train", [f"training={name}"])["training"])


def test_the_default_training_is_that_of_the_class() -> None:
    config = compose_config("train", [])["training"]
    assert training_config(config) == TrainingConfig()
    assert config.keys() == asdict(TrainingConfig()).keys()
