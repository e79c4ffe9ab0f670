"""The callback that lets us in, with adapters that only remember being called."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.conf import ConfigSourceInfo
from hydra.utils import instantiate
from omegaconf import OmegaConf, open_dict

from di4c_plugin.errors import UserError
from di4c_plugin.programs import callback
from di4c_plugin.programs.callback import Install, plain
from tests.conftest import HYDRA_HOSTS, MakeHost, host_named

NAMES = [host.name for host in HYDRA_HOSTS]


def job(folder: Path, *overrides: str, scheme: str = "file://") -> Any:
    """The config that Hydra gives to callbacks when a job starts."""
    with initialize_config_dir(str(folder), version_base=None):
        config = compose("config", list(overrides), return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.config_sources = [
            ConfigSourceInfo("hydra.conf", "pkg", "hydra"),
            ConfigSourceInfo(f"{scheme}{folder}", "file", "main"),
        ]
    return config


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Which adapters were called, with what."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def find(name: str) -> Any:
        short = name.removesuffix(".adapter:install").rpartition(".")[2]
        return lambda config: calls.append((short, config))

    monkeypatch.setattr(callback, "pkgutil", SimpleNamespace(resolve_name=find))
    # The real ones would stay in this process, and change torch.load for all other tests.
    monkeypatch.setattr(callback, "remedies", SimpleNamespace(install=lambda host: None))
    return calls


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("override", ["algo=di4c", "sampler=di4c"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_adapter_of_the_running_host_is_called(
    name: str,
    override: str,
    scheme: str,
    make_host: MakeHost,
    installed: list[tuple[str, dict[str, Any]]],
) -> None:
    configs = make_host(name) / str(host_named(name).configs)
    if name == "duo":
        (configs / "algo/duo_base.yaml").write_text("name: duo_base")
        (configs / "config.yaml").write_text("defaults: [_self_, {/algo: duo_base}]")
    config = job(configs, override, scheme=scheme)
    install = instantiate(config.hydra.callbacks.di4c)
    assert isinstance(install, Install)
    install.on_job_start(config, task_function=lambda _: None)
    ((called, values),) = installed
    assert called == name
    assert "hydra" not in values
    group = override.partition("=")[0]
    assert values[group]["name"] in ("di4c", "distillation")
    assert isinstance(values[group], dict)


def test_another_program_is_one_line(
    make_host: MakeHost,
    installed: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_host("mdlm")
    (root / "diffusion.py").unlink()
    config = job(root / "configs")
    with pytest.raises(SystemExit) as stop:
        Install().on_job_start(config, task_function=lambda _: None)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "di4c: error: this is not the program of a known host (mdlm, sdtt, duo)\n"
    )
    assert not installed


def test_what_fails_in_installing_ends_the_program(
    make_host: MakeHost,
    installed: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hydra would only warn, and the host would go on without us."""

    def fail(host: str) -> None:
        raise FileNotFoundError("what is not foreseen")

    monkeypatch.setattr(callback, "remedies", SimpleNamespace(install=fail))
    config = job(make_host("mdlm") / "configs", "sampler=ancestral")
    with pytest.raises(SystemExit) as stop:
        Install().on_job_start(config, task_function=lambda _: None)
    assert stop.value.code == 1
    assert "what is not foreseen" in capsys.readouterr().err
    assert not installed


def test_a_method_whose_file_says_no_name_is_called_as_the_file() -> None:
    choices = SimpleNamespace(choices={"algo": "mine"})
    config = {"algo": {"rate": 2}, "teacher_ema": True}
    found = callback.with_choices(config, SimpleNamespace(runtime=choices))  # type: ignore[arg-type]
    assert found["algo"] == {"rate": 2, "method": "mine"}


def test_a_config_is_read_as_plain_values_and_stays_as_it_was() -> None:
    config = OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2, "hydra": {"x": "${nowhere}"}})
    OmegaConf.set_struct(config, True)
    assert plain(config) == {"a": {"b": [1, 2]}, "c": 2}
    assert "hydra" in config


def test_an_interpolation_that_leads_nowhere_is_one_line() -> None:
    config = OmegaConf.create({"a": "${nowhere}"})
    with pytest.raises(UserError, match="^the config cannot be read: [^\n]*nowhere[^\n]*$"):
        plain(config)


def test_relative_paths_are_those_of_the_folder_where_the_command_was_typed(tmp_path: Path) -> None:
    """The hosts have changed into their output folder by then."""
    (tmp_path / "teacher.ckpt").touch()
    (tmp_path / "digits").touch()
    config = {
        "teacher": "teacher.ckpt",
        "sampler": {"teacher": "owner/name@main", "known": None},
        "eval": {"checkpoint_path": ""},
        "checkpointing": {"resume_ckpt_path": "/elsewhere/last.ckpt"},
        "training": "none",
        "init": {"from": "digits", "to": "digits"},
    }
    keys = ("eval.checkpoint_path", "checkpointing.resume_ckpt_path", "training.x", "init.from")
    want = copy.deepcopy(config) | {"teacher": str(tmp_path / "teacher.ckpt")}
    want |= {"init": {"from": str(tmp_path / "digits"), "to": "digits"}}
    assert callback.absolute_paths(config, tmp_path, keys) == want
    for typed, meant in (
        ("file:teacher.ckpt", f"file:{tmp_path / 'teacher.ckpt'}"),
        ("file:elsewhere.ckpt", "file:elsewhere.ckpt"),
        ("builtin:digits", "builtin:digits"),
    ):
        assert callback.absolute_paths({"teacher": typed}, tmp_path) == {"teacher": meant}


def test_a_logger_that_is_not_installed_is_told(
    make_host: MakeHost,
    installed: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = make_host("mdlm") / "configs"
    (configs / "config.yaml").write_text("mode: train\nwandb: {project: x}\n")
    monkeypatch.setattr(callback, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        Install().on_job_start(job(configs, "algo=di4c"), task_function=lambda _: None)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "di4c: error: the config logs to wandb, which is not installed: "
        "add wandb=null, or pip install wandb"
    )
    assert not installed
    Install().on_job_start(job(configs, "algo=di4c", "wandb=null"), task_function=lambda _: None)
    Install().on_job_start(job(configs, "sampler=di4c", "mode=sample_eval"), task_function=print)
    assert len(installed) == 2


def test_a_package_that_the_host_lacks_is_told(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(config: Any) -> None:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    modules = SimpleNamespace(resolve_name=lambda name: lacking)
    monkeypatch.setattr(callback, "pkgutil", modules)
    monkeypatch.setattr(callback, "remedies", SimpleNamespace(install=lambda host: None))
    configs = make_host("mdlm") / "configs"
    with pytest.raises(SystemExit):
        Install().on_job_start(job(configs, "algo=di4c"), task_function=lambda _: None)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "di4c: error: mdlm needs timm, which is not installed: di4c run main.py … has what it lacks"
    )
