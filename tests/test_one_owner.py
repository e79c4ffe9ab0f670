"""Python, `di4c train` and the hosts' own programs agree on every option that nobody said."""

import inspect
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from di4c_plugin import api
from di4c_plugin.algorithms.base import Algorithm, Data
from di4c_plugin.algorithms.di4c import Weights
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.cli.main import main
from di4c_plugin.diffusion import (
    SCHEDULED,
    Absorbing,
    DiscretisedGaussian,
    Process,
    Uniform,
    build_process,
)
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.hosts import OpenHost
from di4c_plugin.networks.dit import DiTConfig
from di4c_plugin.plugins import GROUP, PluginManager, get_manager, lookup
from di4c_plugin.programs.tauldr import training as registered
from di4c_plugin.programs.tauldr.settings import LossSettings
from di4c_plugin.programs.text.settings import distillation
from di4c_plugin.samplers import sampler_named
from di4c_plugin.training.build import make_algorithm
from di4c_plugin.training.compose import compose_config, compose_run
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.recipes import Recipe, recipe
from tests.conftest import host_named
from tests.stand_ins.images.small_tauldr import SIZES
from tests.test_configs import HOSTS, in_host

ALGOS = ("di4c", "dimo", "dmmd", "idlm", "rsmmd", "sdtt", "mutual", "marginal")
MASKED = {"num_tokens": 5, "mask": 4}
PROCESSES: dict[str, tuple[str, dict[str, Any]]] = {  # by host: kind of network, process
    "builtin": ("transformer", {"name": "absorbing", "num_tokens": 4}),
    "two_bits": ("transformer", {"name": "absorbing", "num_tokens": 2}),
    "maskgit": ("maskgit", {"name": "confidence"} | MASKED),
    "halton": ("halton_maskgit", {"name": "confidence"} | MASKED),
    "halton_maskgit": ("halton_maskgit", {"name": "confidence"} | MASKED),
    "tauldr": ("tauldr", {"name": "gaussian", "num_tokens": 4}),
    "hf": ("hf", {"name": "absorbing"} | MASKED),
}
UNIFORM = {"name": "uniform", "num_tokens": 4}
DATA = Data(torch.zeros(1, 1, dtype=torch.long))

Made = tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]


class Taken(Exception):
    """A run that was about to begin: the method, the student's latent, the training."""


@pytest.fixture(autouse=True)
def _plugins(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The built-ins and the example plugin."""
    monkeypatch.syspath_prepend(repository / "tests" / "example_plugin")
    entry = metadata.EntryPoint("example", "di4c_example.plugin", GROUP)
    real = metadata.entry_points
    monkeypatch.setattr(
        metadata, "entry_points", lambda **by: [entry] if by == {"group": GROUP} else real(**by)
    )
    get_manager.cache_clear()
    yield
    get_manager.cache_clear()


@pytest.fixture
def more_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs of a further plugin."""
    paths, folder = PluginManager.config_paths, tmp_path / "more"
    monkeypatch.setattr(PluginManager, "config_paths", lambda self: [*paths(self), str(folder)])
    (folder / "recipe").mkdir(parents=True)
    return folder


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """Make the teacher of a host; students are made of nothing, and no run begins."""

    def build(self: OpenHost, teacher: Model, latent: dict[str, Any] | None) -> Model:
        return Model(teacher.denoiser, teacher.network, latent, role="student")

    def train(method: Algorithm, student: Model, *rest: Any, **options: Any) -> Model:
        raise Taken(method, student.latent, rest[2])

    monkeypatch.setattr("di4c_plugin.training.run.train", train)
    monkeypatch.setattr(api, "digests", lambda *models: {})

    def make(host: str) -> Model:
        kind, process = PROCESSES[host]
        denoiser: Any = SimpleNamespace(process=build_process(process))
        network: Any = SimpleNamespace(kind=kind)
        monkeypatch.setattr(OpenHost, "build_student", build)
        monkeypatch.setattr(OpenHost, "data", lambda self: DATA)
        model = Model(denoiser, network)
        monkeypatch.setattr(api, "load_teacher", lambda source, host: model)
        return model

    return make


def options_of(method: Algorithm) -> dict[str, Any]:
    """What a method was made with, ranges as tuples."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(method).items()}
    return values | {"process": None, "class": type(method)}


def whole(latent: dict[str, Any] | None) -> dict[str, Any] | None:
    """A latent with all its options, those of its file where it says none."""
    if latent is None:
        return None
    return dict(compose_config("train", [f"latent={latent['name']}"])["latent"]) | latent


def made(method: Algorithm, latent: dict[str, Any] | None, training: TrainingConfig) -> Made:
    return options_of(method), whole(latent), asdict(training)


def by_python(teacher: Model, **options: Any) -> Made:
    with pytest.raises(Taken) as taken:
        api.distill(teacher, DATA, **options)
    return made(*taken.value.args)


def by_command(out: Path, host: str, algo: str, *overrides: str) -> Made:
    with pytest.raises(Taken) as taken:
        main(["train", f"host={host}", f"algo={algo}", f"out={out}", *overrides])
    return made(*taken.value.args)


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("host", PROCESSES)
def test_python_and_the_command_line_agree(
    host: str, algo: str, teacher: Callable[[str], Model], tmp_path: Path
) -> None:
    model, options = teacher(host), {"name": algo}
    if (host, algo) == ("tauldr", "idlm"):
        with pytest.raises(UserError, match="are for masked processes$"):
            api.distill(model, DATA, algo=options, host=host)
        return
    one = by_python(model, algo=options, host=host)
    assert one == by_command(tmp_path, host, algo)
    if host != "two_bits":  # whose teachers look like those of the digits
        assert one == by_python(model, algo=options)


@pytest.mark.parametrize(("host", "kind"), [("builtin", "transformer"), ("duo", "dit")])
def test_they_agree_on_dcd_where_states_are_uniform(
    host: str,
    kind: str,
    teacher: Callable[[str], Model],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROCESSES, host, (kind, UNIFORM))
    one = by_python(teacher(host), algo={"name": "dcd"}, host=host)
    assert one == by_command(tmp_path, host, "dcd")
    assert one[0]["trajectory"] == "data"


@pytest.mark.parametrize("host", PROCESSES)
def test_they_agree_on_what_is_said_too(
    host: str, teacher: Callable[[str], Model], tmp_path: Path
) -> None:
    name = lookup("host", host).latent
    said = by_python(
        teacher(host),
        algo={"latents": 3, "weights": {"distil": 0.5}},
        training={"steps": 7, "betas": (0.8, 0.9)},
        latent={"std": 0.2},
        host={"name": host},
    )
    typed = ["algo.latents=3", "algo.weights.distil=0.5", "training.steps=7"]
    typed += ["training.betas=[0.8,0.9]"]
    if name != "token":
        assert said == by_command(tmp_path, host, "di4c", *typed, "latent.std=0.2")
    assert (said[0]["latents"], said[0]["weights"].distil) == (3, 0.5)
    assert (said[1] or {})["name"] == name
    assert (said[2]["steps"], said[2]["batch_size"]) == (7, TrainingConfig().batch_size)


@pytest.mark.parametrize("algo", sorted({*ALGOS} - {"idlm"}))
def test_tauldrs_own_program_agrees(algo: str, teacher: Callable[[str], Model]) -> None:
    cfg = SimpleNamespace(loss={"options": {"name": algo}, "min_time": 0.3})
    settings = LossSettings.of(cfg)
    method = registered.method_of(settings, SIZES)
    options, latent, _ = by_python(teacher("tauldr"), algo={"name": algo})
    assert options_of(method) == options
    assert whole(settings.latent_of(method.roles["student"])) == latent


@pytest.mark.parametrize("algo", [*ALGOS, "dcd"])
@pytest.mark.parametrize("host", HOSTS)
def test_the_text_hosts_agree(host: str, algo: str, tmp_path: Path) -> None:
    settings = distillation(in_host(tmp_path, host, f"algo={algo}", "teacher=x"))
    process: Process = Uniform(4) if algo == "dcd" else Absorbing(4, mask=3)
    method = settings.make(process)
    own = recipe(host, algo).algo_with({"name": algo})
    assert options_of(method) == options_of(make_algorithm(own, process))
    role = method.roles["student"]
    latents: dict[str, Any] = {"di4c": {"name": "token"}, "dimo": {"name": "token"}}
    latents["dmmd"] = latents["rsmmd"] = {"name": "mask_noise", "dim": 16, "std": 0.5}
    assert settings.latent_of(role) == latents.get(algo)


def test_a_text_hosts_teacher_is_not_distilled_as_digits(
    teacher: Callable[[str], Model],
) -> None:
    model = teacher("builtin")
    dit = Model(model.denoiser, DiTConfig(5, 1, 8, 4, 1, 1))
    options, _, training = by_python(dit)
    assert options == options_of(make_algorithm({"name": "di4c"}, model.process))
    assert training == asdict(TrainingConfig(lr=3e-4)), "of recipe/mdlm/training"
    with pytest.raises(UserError, match="this is a model of 'dit', and host 'builtin' has"):
        by_python(dit, host="builtin")


@pytest.mark.host
@pytest.mark.parametrize("host_checkout", HOSTS, indirect=True)
def test_di4c_train_has_the_rate_of_a_text_hosts_own_program(host_checkout: Path) -> None:
    host = host_checkout.name
    config = host_checkout / str(host_named(host).configs) / "config.yaml"
    rate = OmegaConf.load(config).optim.lr
    for algo in (*ALGOS, "dcd"):
        assert recipe(host, algo).training == {"lr": rate}
        assert compose_config("train", [f"host={host}", f"algo={algo}"])["training"]["lr"] == rate


TWO_BITS = """# @package _global_
algo:
  delta_t: [0.25, 0.25]
training:
  steps: 9
  lr: 5e-3
recipe:
  latent:
    name: token
    dim: 2
"""


def test_a_plugins_recipe_is_for_all(
    more_configs: Path, teacher: Callable[[str], Model], tmp_path: Path
) -> None:
    (more_configs / "recipe" / "two_bits").mkdir()
    (more_configs / "recipe" / "two_bits" / "di4c.yaml").write_text(TWO_BITS)
    model = teacher("two_bits")
    one, other = by_python(model, host="two_bits"), by_command(tmp_path, "two_bits", "di4c")
    assert one == other
    assert one[0]["delta_t"] == (0.25, 0.25)
    assert one[1] == {"name": "token", "dim": 2, "features": 128, "blocks": None, "doors": None}
    assert (one[2]["steps"], one[2]["lr"]) == (9, 5e-3)
    (more_configs / "recipe" / "two_bits" / "training.yaml").write_text(
        "# @package _global_\ntraining:\n  steps: 5\n  warmup: 0.2\n"
    )
    one = by_python(model, host="two_bits")
    assert one == by_command(tmp_path, "two_bits", "di4c")
    assert (one[2]["steps"], one[2]["warmup"]) == (9, 0.2), "the method's goes over the host's"
    kept = TrainingConfig(lr=1.0)
    assert by_python(model, host="two_bits", training=kept)[2] == asdict(kept)
    # Options alone change the recipe's latent; who names one has chosen.
    for said, typed, latent in (
        ({"features": 4}, ["latent.features=4"], {"name": "token", "dim": 2, "features": 4}),
        ({"name": "token"}, ["latent=token"], {"name": "token", "dim": 1, "features": 128}),
        ({"name": "adaln"}, ["latent=adaln"], {"name": "adaln", "dim": 1, "std": 0.1}),
    ):
        one = by_python(model, host="two_bits", latent=said)
        assert one == by_command(tmp_path, "two_bits", "di4c", *typed)
        assert (one[1] or {}).items() >= latent.items()


@pytest.mark.parametrize("host", HOSTS)
def test_a_plugins_recipe_is_found_in_a_text_host(
    host: str, more_configs: Path, tmp_path: Path
) -> None:
    (more_configs / "recipe" / host).mkdir()
    path = more_configs / "recipe" / host / "di4c.yaml"
    path.write_text(TWO_BITS.replace("training:\n  steps: 9\n  lr: 5e-3\n", ""))
    common = ["algo=di4c", "teacher=x"]

    def composed(*more: str) -> Any:
        return distillation(in_host(tmp_path, host, *common, *more))

    found = composed()
    assert found.algo["delta_t"] == (0.25, 0.25)
    assert found.algo["latents"] == 16
    assert found.latent == {"name": "token", "dim": 2}
    assert composed("algo.delta_t=[0.5,0.5]").algo["delta_t"] == (0.5, 0.5)
    assert composed("latent.features=4").latent == {"name": "token", "dim": 2, "features": 4}
    assert composed("latent=adaln").latent["name"] == "adaln"
    assert composed("latent.name=adaln").latent == {"name": "adaln"}
    assert "dim" in composed("latent=token").latent


# ---- every file of options, and the class that it is for


def files_of(group: str) -> list[str]:
    """The options of a group, the example plugin's among them."""
    example = Path(__file__).parent / "example_plugin/di4c_example/configs"
    folders = (configs_dir() / group, example / group)
    return sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))


def defaults_of(call: Any, *left_out: str) -> dict[str, Any]:
    """The options in a signature and their defaults, as YAML has them."""
    return {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in inspect.signature(call).parameters.items()
        if name not in left_out and p.kind is not p.VAR_KEYWORD
    }


@pytest.mark.parametrize("name", files_of("algo"))
def test_a_file_of_a_method_is_its_class(name: str, tmp_path: Path) -> None:
    config = in_host(tmp_path, "mdlm", f"algo={name}")["algo"]
    expected = {"name": name} | defaults_of(lookup("algorithm", name), "process")
    expected |= recipe("mdlm", name).algo
    if name == "di4c":
        expected["weights"] = asdict(Weights())
    assert config == expected


@pytest.mark.parametrize("name", files_of("latent"))
def test_a_file_of_a_latent_is_its_class(name: str) -> None:
    expected = {"name": name} | defaults_of(lookup("latent", name), "sizes", "network")
    blocks = {} if name == "unet" else {"blocks": None, "doors": None}
    assert compose_config("train", [f"latent={name}"])["latent"] == expected | blocks


@pytest.mark.parametrize("name", files_of("sampler"))
def test_a_file_of_a_sampler_is_its_function(name: str, tmp_path: Path) -> None:
    config = in_host(tmp_path, "mdlm", f"sampler={name}")["sampler"]
    given = ("denoiser", "x", "times", "process", "generator", "cond", "callback")
    expected = defaults_of(sampler_named(name), *given, "guidance_teacher")
    if name == "hybrid":  # which of both has no default in the function
        expected |= {"teacher": None, "teacher_steps": 1}
    hosts_own = {"steps": None, "prefix": None, "known": None}
    assert config == {"name": name} | hosts_own | expected


@pytest.mark.parametrize("name", files_of("process"))
def test_a_file_of_a_process_is_its_class(name: str) -> None:
    config = compose_config("train_teacher", [f"process={name}"])["process"]
    # The tokens are the data's, and `leave_one_out` a network's.
    theirs = ("num_tokens", "mask", "barred", "leave_one_out", "schedule")
    if name == "gaussian":
        kind, schedule = DiscretisedGaussian, {}
    else:
        kind, default, _ = SCHEDULED[name]  # type: ignore[assignment]
        schedule = {"schedule": default}
    assert config == {"name": name} | schedule | defaults_of(kind, *theirs)


@pytest.mark.parametrize("name", files_of("training"))
def test_a_file_of_the_training_is_its_class(name: str) -> None:
    config = compose_config("train_teacher", [f"training={name}", "algo=denoising"])["training"]
    teachers = {"steps": 6000, "batch_size": 128, "ema": 0.998} if name == "teacher" else {}
    assert config == defaults_of(TrainingConfig) | teachers


# ---- recipes


@pytest.mark.slow
def test_recipes_are_read_as_hydra_reads_them() -> None:
    for host in PROCESSES:
        for algo in ALGOS:
            config = compose_config("train", [f"host={host}", f"algo={algo}"])
            found = recipe(host, algo)
            assert found.algo_with(config["algo"]) == config["algo"]
            assert {k: config["training"][k] for k in found.training} == found.training
    assert recipe("halton", "di4c") == recipe("maskgit", "di4c") != Recipe()
    assert recipe("two_bits", "mutual").training == {"steps": 300}
    assert recipe("nowhere", "di4c") == recipe("builtin", "../builtin/di4c") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algo: [", "cannot be read: .*"),
        ("- 1", "is no recipe: it holds no options"),
        ("host: {}", "a recipe has algo, training and recipe.latent, not host"),
        ("recipe: {algo: {}}", "a recipe has algo, training and recipe.latent, not recipe.algo"),
        ("algo: 5", "algo must be a mapping of options, not 5"),
        ("training: [1]", r"training must be a mapping of options, not \[1\]"),
        ("recipe: 5", "recipe must be a mapping of options, not 5"),
        ("recipe: {latent: token}", "recipe.latent must be a mapping of options, not 'token'"),
        ("defaults: 5", "defaults must be a list, not 5"),
        ("defaults: [/algo: di4c]", "its defaults may name recipes, /recipe/HOST/METHOD: .*"),
        ("defaults: [/recipe/a/b]", "there is no recipe /recipe/a/b"),
    ],
)
def test_what_is_no_recipe_is_one_line(more_configs: Path, text: str, message: str) -> None:
    (more_configs / "recipe" / "mine").mkdir()
    (more_configs / "recipe" / "mine" / "di4c.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"^\S+di4c.yaml:? {message}$"):
        recipe("mine", "di4c")


def test_a_recipe_without_its_first_line_is_told(more_configs: Path) -> None:
    (more_configs / "recipe" / "two_bits").mkdir()
    (more_configs / "recipe" / "two_bits" / "di4c.yaml").write_text("algo: {latents: 2}")
    with pytest.raises(UserError, match="^a recipe begins with the line # @package _global_$"):
        compose_config("train", ["host=two_bits"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algo: 5", "algo .*not (5|a set of options)"),
        ("recipe: 5", "recipe must be a mapping of options, not 5"),
        ("recipe: {latent: token}", "recipe.latent must be a mapping of options, not 'token'"),
    ],
)
def test_what_is_no_set_of_options_is_told_where_hydra_composes_it(
    more_configs: Path, tmp_path: Path, text: str, message: str
) -> None:
    for host in ("two_bits", "mdlm"):
        (more_configs / "recipe" / host).mkdir()
        (more_configs / "recipe" / host / "di4c.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(UserError, match=f"^{message}$"):
        compose_run("train", ["host=two_bits", "out=x", "teacher=x"])
    with pytest.raises(UserError, match=f"^[^\n]*{message}$"):
        distillation(in_host(tmp_path, "mdlm", "algo=di4c", "teacher=x"))


@pytest.mark.parametrize(
    ("host", "grid"),
    [
        ("builtin", [8, 8]),  # digits
        ("maskgit", [16, 16]),  # codes of 256 x 256 pixels
        ("halton_maskgit", [16, 16]),
        ("halton", [16, 16]),
        ("tauldr", [3, 32, 32]),  # CIFAR-10
    ],
)
def test_windows_of_pictures_are_squares(host: str, grid: list[int]) -> None:
    assert recipe(host, "di4c").algo["grid"] == grid
