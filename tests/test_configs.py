"""Every shipped config is composed, and what it describes is made.

Experiments: tests/test_experiments.py. Recipes, and that files and classes have the same defaults:
tests/test_one_owner.py; that recipes start: tests/training/test_recipes.py.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from di4c_plugin.algorithms.base import Algorithm, Role
from di4c_plugin.algorithms.di4c import Di4C, Weights
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation.text_options import text_options
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts import OpenHost
from di4c_plugin.plugins import make
from di4c_plugin.programs.callback import plain as plain_config
from di4c_plugin.programs.callback import with_choices
from di4c_plugin.programs.duo.adapter import distilling
from di4c_plugin.programs.text.measuring import metric_settings
from di4c_plugin.programs.text.sampling import sampler_settings
from di4c_plugin.programs.text.settings import distillation
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.compose import compose_config, compose_run, training_config
from tests.conftest import HYDRA_HOSTS, host_named

GROUPS = ("algo", "experiment", "host", "latent", "process", "sampler", "training")
GROUPS_OF_HOSTS = ("di4c_host", "hydra/env", "latent")
HOSTS = [host.name for host in HYDRA_HOSTS]
# github.com/sony/di4c, sdtt/: what the released students of OpenWebText were trained with.
RELEASED: dict[str, Any] = {
    "latents": 16,
    "delta": 0.02,
    "delta_share": 0.3,
    "delta_t": (1 / 1024, 1 / 1024),
    "delta_t_end": (1 / 1024, 1 / 1024),
    "alpha": "sigmoid",
    "partial": False,
    "states": None,
    "prior_share": 0.0,
    "weights": Weights(data_corr=0.1),
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (configs_dir() / group).glob("*.yaml"))


def teacher(config: dict[str, Any]) -> Model:
    host = make("host", config["host"])
    assert isinstance(host, OpenHost)
    return host.new_teacher(config["process"], **config["network"])


def in_host(folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The config of a job in a program that bears the marks of a host, for `plan_of`."""
    host = host_named(name)
    assert host.configs
    for path in (*host.marks, f"{host.configs}/config.yaml"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")
    (folder / host.configs / "lr_scheduler").mkdir(exist_ok=True)
    (folder / host.configs / "lr_scheduler/constant_warmup.yaml").write_text("_target_: x")
    defaults = "_self_, {/lr_scheduler: constant_warmup}"
    if name == "duo":
        (folder / host.configs / "algo/duo_base.yaml").write_text("name: duo_base")
        defaults += ", {/algo: duo_base}"
    (folder / host.configs / "config.yaml").write_text(f"defaults: [{defaults}]\nmode: train")
    with initialize_config_dir(str(folder / host.configs), version_base=None):
        composed = compose("config", list(overrides), return_hydra_config=True)
    config = with_choices(plain_config(composed), composed.hydra)
    return distilling(config) if name == "duo" and "method" in config["algo"] else config


def test_every_config_is_tested_here() -> None:
    found = {path.relative_to(configs_dir()) for path in configs_dir().rglob("*.yaml")}
    grouped = {Path(group, f"{name}.yaml") for group in GROUPS for name in options(group)}
    hosts = {Path("hosts", h, "di4c_host/default.yaml") for h in HOSTS}
    hosts |= {Path("hosts/any", g, "default.yaml") for g in GROUPS_OF_HOSTS}
    hosts |= {Path("hosts/duo/hydra/env/default.yaml")}  # with a group algo of its own
    others = {Path("train.yaml"), Path("train_teacher.yaml"), Path("di4c_text/default.yaml")}
    others |= {Path("lr_scheduler/one_cycle.yaml"), Path("di4c_text_short/default.yaml")}
    others |= {Path("metrics/text.yaml"), Path("text_blocks/default.yaml")}
    recipes = {  # tests/test_one_owner.py
        Path("recipe", host, f"{algo}.yaml")
        for algo in ("di4c", "dmmd", "sdtt")
        for host in options("host")
        if algo != "di4c" or host not in HOSTS  # there it has its own defaults, the released ones
    }
    recipes |= {Path("recipe", host, "rsmmd.yaml") for host in (*HOSTS, "hf")}
    recipes |= {Path("recipe/duo/dcd.yaml")}
    recipes |= {Path("recipe/text", f"{algo}.yaml") for algo in ("dmmd", "rsmmd", "sdtt")}
    recipes |= {Path("recipe", host, "training.yaml") for host in options("host")}
    recipes.remove(Path("recipe/builtin/training.yaml"))  # whose networks the defaults are for
    assert found == grouped | hosts | others | recipes


@pytest.mark.parametrize("name", options("algo"))
def test_algo(name: str) -> None:
    config = compose_config("train", [f"algo={name}"])["algo"]
    of = ["process=uniform"] if name == "dcd" else []
    process = teacher(compose_config("train_teacher", of)).process
    assert config["name"] == name
    assert isinstance(make_algorithm(config, process), Algorithm)


@pytest.mark.parametrize("name", HOSTS)
def test_di4c_in_a_host_is_as_released(name: str, tmp_path: Path) -> None:
    config = in_host(tmp_path, name, "algo=di4c", "teacher=x")
    settings = distillation(config)
    assert settings.latent_of(Role(latent="required")) == {"name": "token"}
    assert (settings.teacher, settings.teacher_ema, settings.rounds) == ("x", True, None)
    method = vars(settings.make(Absorbing(4, mask=3)))
    assert {key: method[key] for key in RELEASED} == RELEASED
    assert settings.algo.keys() - {"name"} == inspect.signature(Di4C).parameters.keys() - {
        "process"
    }


@pytest.mark.parametrize("latent", options("latent"))
@pytest.mark.parametrize("host", HOSTS)
def test_every_latent_in_every_host(host: str, latent: str, tmp_path: Path) -> None:
    config = in_host(tmp_path, host, "algo=di4c", f"latent={latent}", "teacher=x", "rounds=2")
    chosen = distillation(config).latent
    assert chosen is not None
    assert chosen["name"] == latent
    assert distillation(config).rounds == 2


@pytest.mark.parametrize("name", options("sampler"))
@pytest.mark.parametrize("host", HOSTS)
def test_every_sampler_in_every_host(host: str, name: str, tmp_path: Path) -> None:
    teacher = ["sampler.teacher=x"] if name == "hybrid" else []
    config = in_host(tmp_path, host, f"sampler={name}", "sampler.steps=4", *teacher)
    settings = sampler_settings(config["sampler"])
    assert (settings.name, settings.steps) == (name, 4)
    assert "teacher" not in config
    if teacher:
        with pytest.raises(UserError, match="add sampler.teacher=SOURCE"):
            sampler_settings(config["sampler"] | {"teacher": None})


@pytest.mark.parametrize("host", HOSTS)
def test_the_metrics_of_texts_in_every_host(host: str, tmp_path: Path) -> None:
    """The file says what the command has by default, and everything that may be said."""
    config = in_host(tmp_path, host, "sampler=di4c", "metrics=text")["metrics"]
    settings = metric_settings(config, "gpt2")
    assert settings is not None
    assert settings.names == ("gen_ppl", "entropy")
    found = inspect.signature(text_options).parameters
    defaults = {name: p.default for name, p in found.items() if name != "device"}
    assert settings.options == defaults | {"scorer": "gpt2"}


@pytest.mark.parametrize("name", options("host"))
def test_host(name: str) -> None:
    config = compose_config("train", [f"host={name}"])["host"]
    host = make("host", config)
    if name == "builtin":
        assert len(host.data().x_0) > 0
        return
    # What the file says is what the host does without it, but for what it says of its data.
    own = host.options | {"process": None, "mirror": None}
    assert own == make("host", {"name": name}).options | {"process": None, "mirror": None}
    assert config.keys() <= {"name", *host.options}
    with pytest.raises(UserError, match="host.data=PATH"):
        host.data()


def test_the_latent_of_a_unet_is_for_its_host() -> None:
    config = compose_config("train", ["latent=unet"])
    with pytest.raises(UserError, match="latent 'unet' does not enter this network: it is no "):
        make("host", config["host"]).build_student(
            teacher(compose_config("train_teacher", [])), config["latent"]
        )


@pytest.mark.parametrize("name", sorted({*options("latent")} - {"unet"}))
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


@pytest.mark.parametrize("host", HOSTS)
def test_a_latent_that_nobody_chose_is_the_recipes(host: str, tmp_path: Path) -> None:
    def latent(*overrides: str) -> dict[str, Any] | None:
        settings = distillation(in_host(tmp_path, host, "teacher=x", *overrides))
        return settings.latent_of(settings.make(Absorbing(4, mask=3)).roles["student"])

    recipe = latent("algo=dmmd")
    assert recipe == {"name": "mask_noise", "dim": 16, "std": 0.5}
    assert latent("+experiment=text_dmmd") == recipe  # which names a method alone
    assert latent("+experiment=text_dmmd", "+latent.std=1.0") == recipe | {"std": 1.0}
    assert latent("algo=dmmd", "latent.dim=1") == recipe | {"dim": 1}
    assert latent("algo=dmmd", "latent.name=adaln") == {"name": "adaln"}
    named = {"name": "stream_noise", "std": 2}
    assert latent("algo=dmmd", "latent.name=stream_noise", "+latent.std=2") == named
    assert latent("algo=dmmd", "algo.input_noise=false") is None
    assert (latent("algo=dmmd", "latent=adaln") or {})["name"] == "adaln"
    assert (latent("+experiment=text_dmmd", "latent=token") or {})["name"] == "token"
    assert (latent("+experiment=text_short") or {})["name"] == "mask_noise"
    assert latent("algo=sdtt") is None
    assert (latent("algo=sdtt", "latent=token") or {})["name"] == "token"
