"""Every experiment is composed and made; those of the paper have the settings that were released.

The tables below were written from the official code (github.com/sony/di4c, commit ac61ff9), not
from the YAML files.
"""

import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from di4c_plugin import load_student
from di4c_plugin.algorithms.base import Algorithm
from di4c_plugin.algorithms.di4c import Di4C, Weights
from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import Absorbing, Confidence, DiscretisedGaussian, Process, Uniform
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts import OpenHost
from di4c_plugin.plugins import make
from di4c_plugin.programs.duo.adapter import distilling
from di4c_plugin.programs.text.settings import distillation
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.compose import RunConfig, compose_run
from di4c_plugin.training.config import TrainingConfig
from tests.conftest import HYDRA_HOSTS, host_named
from tests.stand_ins.images.checkouts import real, stand_in
from tests.stand_ins.images.place import Place
from tests.test_configs import in_host, options

MASKGIT = Confidence(5, mask=4)
GAUSSIAN = DiscretisedGaussian(5)
TEXT = ("openwebtext_sdtt6_di4c2", "openwebtext_sdtt7_di4c2")
SHORT = (
    "text_short",
    "mdlm_short",
    "text_dmmd",
    "text_rsmmd",
    "mdlm_rsmmd",
    "text_sdtt",
    "duo_dcd",
)  # inside the hosts, and without them
IN_HYDRA = [host.name for host in HYDRA_HOSTS]
IN_PROGRAMS = [(host, name) for host in IN_HYDRA for name in TEXT]


@dataclass(frozen=True)
class Released:
    """What an official script does; times as ours, t = 1 - r for MaskGIT."""

    host: str
    latent: dict[str, Any]
    process: Process
    algo: dict[str, Any]
    pictures: int  # that meet the consistency or the data terms in an update, over all GPUs
    training: dict[str, Any]


# latent_feature_dim
TOKEN = {"name": "token", "dim": 1, "features": 128, "blocks": None, "doors": None}


def maskgit(host: str, c: float) -> Released:
    """di4c_main.py: its defaults, with --alpha_const c."""
    return Released(
        host,
        {
            "name": "token",
            "dim": 1,
            "features": 128,
            "blocks": None,
            "doors": None,
        },  # latent_feature_dim
        MASKGIT,
        {
            "latents": 32,  # --latent_bsize
            "delta": 0.05,  # --r_delta, also the length of the teacher's step
            "delta_t": (0.05, 0.05),
            "delta_share": None,  # r = torch.rand
            "weights": Weights(distil=1 / 0.05, data_corr=c),
            "label_dropout": 0.1,  # --drop-label
        },
        2 * 2,  # --bsize for each of two GPUs
        {
            "steps": 120_000 // 4,  # the paper's number of pictures
            "lr": 1e-5,
            "betas": (0.9, 0.96),
            "weight_decay": 1e-5,
            "ema": 0,
            "precision": "bf16-mixed",  # for fp16
        },
    )


# The official loss of CIFAR-10 adds a mean over states below .02 to a mean over all times; here
# either half of the examples gives one of them.
CIFAR10 = Released(
    "tauldr",
    {"name": "unet", "std": 0.1},
    GAUSSIAN,
    {
        "latents": 16,  # distil_batch_size
        "delta": 0.01 + 0.01,  # min_time + max_distil_time
        "delta_t": (0.001, 0.01),  # min_distil_time, max_distil_time
        "delta_share": 0.5,
        "min_time": 0.01,
        "weights": Weights(data_corr=1.0),
    },
    128 // 16,
    {
        "steps": 320_000,
        "lr": 2e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0,  # Adam
        "ema": 0.9999,
        "precision": "32-true",
    },
)
IMAGES = {
    "cifar10_tauldr_di4c": CIFAR10,
    "imagenet256_maskgit_di4c_d": maskgit("maskgit", 0.1),
    "imagenet256_maskgit_di4c": maskgit("maskgit", 0.0),
    "imagenet256_halton_maskgit_di4c_d": maskgit("halton_maskgit", 0.1),
    "imagenet256_halton_maskgit_di4c": maskgit("halton_maskgit", 0.0),
}
COMMON = {"stratified": False, "alpha": "sigmoid", "partial": False, "prior_share": 0.0}
DIGITS = ("digits", "digits_demo", "digits_full", "digits_quick")
PHASES = ("digits_chain", "digits_dmmd", "mdlm_chain", "mdlm_dmmd")  # of several runs


def run_of(name: str) -> RunConfig:
    return compose_run("train", [f"experiment={name}", "out=x"])


def attributes(algorithm: Algorithm) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(algorithm).items()}


def test_every_experiment_is_tested_here() -> None:
    assert {*options("experiment")} == {*IMAGES, *TEXT, *DIGITS, *PHASES, *SHORT}


@pytest.mark.parametrize("name", DIGITS)
def test_digits(name: str) -> None:
    run = run_of(name)
    assert len(make("host", run.info["host"]).data().x_0) > 0
    assert isinstance(make_algorithm(run.info["algo"], Absorbing(5, mask=4)), Di4C)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_as_released(name: str) -> None:
    run, released = run_of(name), IMAGES[name]
    host = make("host", run.info["host"])
    assert isinstance(host, OpenHost)
    assert host.described()["host"]["name"] == released.host
    assert run.info["latent"] == released.latent
    algorithm = make_algorithm(run.info["algo"], released.process)
    found, wanted = attributes(algorithm), COMMON | released.algo
    assert {key: found[key] for key in wanted} == wanted
    assert isinstance(run.training, TrainingConfig)
    training = asdict(run.training)
    wanted = released.training | {
        "schedule": "constant",
        "warmup": 0,
        "clip": 1,
    }
    assert {key: training[key] for key in wanted} == wanted
    examples = training["batch_size"] * training["accumulate"] * training["devices"]
    above = 1 - (released.algo["delta_share"] or 0)
    assert examples * above == released.pictures


@pytest.mark.parametrize("name", [name for name in IMAGES if "imagenet" in name])
def test_the_order_and_the_masks_are_those_of_maskgit(name: str) -> None:
    process = run_of(name).info["host"]["process"]
    # --sched_mode and --r_temp; --randomize linear is what Confidence does
    assert process == {"name": "confidence", "schedule": "arccos", "temperature": 4.5}


def test_hosts_ask_for_what_was_released_without_an_experiment() -> None:
    for host, name in [
        ("maskgit", "imagenet256_maskgit_di4c_d"),
        ("tauldr", "cifar10_tauldr_di4c"),
    ]:
        alone = compose_run("train", [f"host={host}", "out=x"]).info["algo"]
        assert alone | {"stratified": False} == run_of(name).info["algo"]
    halton, alias = (
        compose_run("train", [f"host={host}", "out=x"]).info
        for host in ("halton_maskgit", "halton")
    )
    assert halton == alias


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IMAGES)
def test_the_command_distils(name: str, tmp_path: Path) -> None:
    """As the comment has it, on a small network of ours in a stand-in for the checkout."""
    host = IMAGES[name].host
    for mark in host_named(host).marks:
        (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / mark).touch()
    distil(name, Place(host, stand_in(tmp_path, host), tmp_path))


@pytest.mark.host
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IMAGES)
def test_the_command_distils_in_the_real_host(name: str, tmp_path: Path, repository: Path) -> None:
    host = IMAGES[name].host
    distil(name, Place(host, real(repository, host), tmp_path))


def distil(name: str, place: Place) -> None:
    given = [f"teacher={place.teacher}", f"host.data={place.data}", f"out={place.folder / 'out'}"]
    short = ["training.steps=2", "training.logger=none", "training.accelerator=cpu"]
    arguments = [f"experiment={name}", f"host.root={place.root}", *given, *place.own, *short]
    assert main(["train", *arguments]) == 0
    checkout = {"root": str(place.root)}
    info = load_student(place.folder / "out" / "student.safetensors", host=checkout).info
    assert info["algo"] == run_of(name).info["algo"]


# sdtt/src/sdtt/configs/config.yaml
RELEASED_TEXT = {
    "loader.global_batch_size": 2,
    "optim.lr": 3e-5,
    "optim.weight_decay": 0,
    "optim.beta1": 0.9,
    "optim.beta2": 0.999,
    "lr_scheduler.num_warmup_steps": 2500,
    "training.ema": 0.9999,
    "trainer.gradient_clip_val": 1.0,
    "trainer.precision": "bf16-mixed",
}


def check_text(name: str, config: dict[str, Any]) -> None:
    for key, value in RELEASED_TEXT.items():
        found: Any = config
        for part in key.split("."):
            found = found[part]
        assert found == value, key
    settings = distillation(config)
    round_of_sdtt = int(name.removeprefix("openwebtext_sdtt")[0])
    # load_small_student("kld", round) takes this revision of jdeschena/sdtt
    assert settings.teacher == f"jdeschena/sdtt@baselines_kld_step_{round_of_sdtt * 10_000}"
    assert settings.rounds == 2
    assert settings.latent == {
        "name": "token",
        "dim": 1,
        "features": 128,
        "blocks": None,
        "doors": None,
    }
    method = attributes(settings.make(Absorbing(4, mask=3)))
    wanted = COMMON | {
        "latents": 16,  # latent_bsize
        "delta": 0.02,  # distil_delta
        "delta_share": 0.3,  # distil_prob
        "delta_t": (1 / 1024, 1 / 1024),  # 1 / T
        "weights": Weights(data_corr=0.1),  # alpha_const
    }
    assert {key: method[key] for key in wanted} == wanted


@pytest.mark.parametrize(("host", "name"), IN_PROGRAMS)
def test_text_in_programs_that_look_like_hosts(host: str, name: str, tmp_path: Path) -> None:
    check_text(name, in_host(tmp_path, host, f"+experiment={name}"))


@pytest.mark.parametrize("host", IN_HYDRA)
def test_a_short_run_in_programs_that_look_like_hosts(host: str, tmp_path: Path) -> None:
    short = ["teacher=x", "trainer.max_steps=7", "optim.lr=0.1"]
    config = in_host(tmp_path, host, "+experiment=text_short", *short)
    assert config["lr_scheduler"] == {
        "_target_": "torch.optim.lr_scheduler.OneCycleLR",
        "max_lr": 0.1,
        "total_steps": 7,
    }
    settings = distillation(config)
    assert settings.latent is not None
    assert (settings.latent["name"], settings.latent["std"]) == ("mask_noise", 6)
    method = vars(settings.make(Absorbing(4, mask=3)))
    assert (method["states"], method["windows"]) == (8, (2, 4, 8))
    assert method["weights"] == Weights(consis_corr=0, consis_marg=0, data_corr=1)
    alone = run_of("mdlm_short")
    assert alone.info["latent"] == settings.latent
    assert vars(make_algorithm(alone.info["algo"], Absorbing(4, mask=3))).items() >= (
        {k: v for k, v in method.items() if k != "process"}.items()
    )
    assert (alone.training.batch_size, alone.training.lr) == (64, 1e-3)


@pytest.mark.parametrize(
    ("experiment", "alone", "phase"),
    [
        ("text_dmmd", "mdlm_dmmd", "dmmd"),
        ("text_sdtt", "mdlm_chain", "sdtt"),
        ("text_dmmd", "mdlm_chain", "dmmd"),
        ("text_rsmmd", "mdlm_rsmmd", None),
    ],
)
@pytest.mark.parametrize("host", IN_HYDRA)
def test_a_phase_is_the_same_in_programs_that_look_like_hosts(
    host: str, experiment: str, alone: str, phase: str | None, tmp_path: Path
) -> None:
    config = in_host(tmp_path, host, f"+experiment={experiment}", "teacher=x", "student=y")
    assert distillation(config).latent is None  # that of the student
    method = vars(distillation(config).make(Absorbing(4, mask=3)))
    run = run_of(alone)
    if phase is not None:
        run = compose_run("train", [*run.info["phases"][phase], "out=x"])
    if (host, experiment) == ("duo", "text_sdtt"):
        assert method.pop("divergence") == "kl", "of the recipe"
    assert vars(make_algorithm(run.info["algo"], Absorbing(4, mask=3))).items() >= (
        {k: v for k, v in method.items() if k not in ("process", "roles")}.items()
    )
    training = run.training
    assert (training.batch_size, training.weight_decay, training.ema) == (64, 0, 0.99)
    assert config["loader"]["global_batch_size"] == 64
    assert (training.lr, training.ema) == (config["optim"]["lr"], config["training"]["ema"])
    assert config["lr_scheduler"]["max_lr"] == training.lr
    assert training.steps == config["trainer"]["max_steps"]


def test_the_teacher_of_duos_distillation_is_renewed_once() -> None:
    run = run_of("duo_dcd")
    method = make_algorithm(run.info["algo"], Uniform(4))
    assert run.info["host"]["name"] == "duo"
    assert method.rounds == 2
    assert vars(method).items() >= {"trajectory": "data", "divergence": "reverse_kl"}.items()
    assert (run.training.steps, run.training.schedule) == (600, "constant")


def test_text_outside_of_a_host_says_where_it_belongs(tmp_path: Path) -> None:
    chosen = "experiment=openwebtext_sdtt7_di4c2"
    wanted = "unknown here are .*rounds.*host's program: di4c run PROGRAM [+]" + chosen
    with pytest.raises(UserError, match=wanted):
        compose_run("train", [chosen, f"out={tmp_path}"])


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize(("host", "name"), IN_PROGRAMS)
def test_text_in_the_real_hosts(host: str, name: str, repository: Path) -> None:
    known = host_named(host)
    root = repository / "external" / host
    if not known.is_at(root):
        pytest.skip(f"external/{host} is empty: git submodule update --init")
    program = [str(Path(sys.executable).with_name("di4c")), "run", known.script]
    command = [*program, f"+experiment={name}", "--cfg", "job"]
    environment = os.environ | {"PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    config = yaml.safe_load(done.stdout)
    config["algo"].setdefault("method", "di4c")  # in Duo; `with_choices` knows the chosen file
    check_text(name, distilling(config) if host == "duo" else config)


@pytest.mark.parametrize("name", [*IMAGES, *TEXT])
def test_each_says_what_to_type_and_to_expect(name: str) -> None:
    text = (configs_dir() / "experiment" / f"{name}.yaml").read_text()
    head = text.partition("defaults:")[0]
    assert f"experiment={name}" in head
    assert re.search(r"Expected .*section 5\.[123]|no expected number", head)
    assert ("released settings or" in head) == ("halton" in name)
