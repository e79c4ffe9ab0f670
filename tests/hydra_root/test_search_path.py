"""The groups that the search-path plugin gives to known hosts, and to nobody else."""

import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.hookspecs import hookimpl
from di4c_plugin.plugins import DISABLE, GROUP, installed_plugins
from tests.conftest import HOSTS, HYDRA_HOSTS, host_named

NAMES = [host.name for host in HYDRA_HOSTS]


@pytest.fixture
def configs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The config folder of a host with its marks, and with an algo group if it is Duo."""
    host = host_named(request.param)
    assert host.configs
    folder = tmp_path / host.configs
    for path in [*host.marks, f"{host.configs}/config.yaml"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    text = "mode: train\n"
    if host.name == "duo":
        (folder / "algo/duo_base.yaml").write_text("name: duo_base\n")
        text = "defaults: [_self_, {/algo: duo_base}]\nmode: train\n"
    (folder / "config.yaml").write_text(text)
    return folder


def manipulate(path: ConfigSearchPathImpl) -> None:
    """What Hydra does with our plugin."""
    import_module("hydra_plugins.di4c").Di4CSearchPath().manipulate_search_path(path)


EVERY_HOST = pytest.mark.parametrize("configs", NAMES, indirect=True)


def test_every_hydra_app_asks_for_programs_without_heavy_imports() -> None:
    code = (
        "import sys, hydra_plugins.di4c as ours\nprint(len(ours.programs()))\n"
        "print({'lightning', 'matplotlib', 'numpy', 'sklearn', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) >= 6
    assert done.stdout.split("\n")[1] == "set()"


class Broken:
    """A plugin whose programs cannot be had, and one of something else."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def di4c_programs(self) -> Any:
        return {"mine": self.answer} if self.answer else 1 / 0


@pytest.mark.parametrize("answer", [None, "no program", host_named("duo")])
def test_another_app_hears_nothing_of_a_broken_plugin(
    answer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("broken")
    vars(module)["plugin"] = Broken(answer)
    monkeypatch.setitem(sys.modules, "broken", module)
    entry = metadata.EntryPoint("broken", "broken:plugin", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **by: [entry])
    assert import_module("hydra_plugins.di4c").programs() == list(HOSTS)
    assert capsys.readouterr() == ("", "")
    problem = "registers no Program of that name" if answer else "fails in di4c_programs"
    with pytest.raises(UserError, match=f"^plugin 'broken' {problem}.*PLUGINS=broken switches it"):
        installed_plugins().programs()


def test_another_app_hears_nothing_of_a_plugin_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DISABLE, "gone")
    assert import_module("hydra_plugins.di4c").programs() == list(HOSTS)
    assert capsys.readouterr() == ("", "")


def composed(configs: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(configs), version_base=None):
        config = compose("config", list(overrides), return_hydra_config=True)
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


@EVERY_HOST
def test_a_host_can_choose_algo_and_sampler(configs: Path) -> None:
    config = composed(configs, "algo=di4c", "sampler=di4c", "teacher=x", "latent=adaln")
    assert config["algo"]["latents"] == 16
    assert config["sampler"]["name"] == "di4c"
    assert config["latent"]["name"] == "adaln"
    assert config["teacher"] == "x"
    assert "di4c" in config["hydra"]["callbacks"]


@EVERY_HOST
def test_a_host_that_does_not_ask_for_us_gets_its_own_config(configs: Path) -> None:
    config = composed(configs)
    del config["hydra"]
    own = {"algo": {"name": "duo_base"}} if (configs / "algo").is_dir() else {}
    assert config == own | {"mode": "train"}


@pytest.mark.parametrize(("configs", "name"), [(n, n) for n in NAMES], indirect=["configs"])
def test_the_method_is_known_to_the_host(configs: Path, name: str) -> None:
    expected = "distillation" if name == "duo" else "di4c"
    assert composed(configs, "algo=di4c")["algo"]["name"] == expected


@pytest.mark.parametrize("configs", ["mdlm"], indirect=True)
def test_another_app_with_the_same_layout_is_left_alone(configs: Path) -> None:
    (configs.parent / "diffusion.py").unlink()
    with pytest.raises(ConfigCompositionException, match="Could not override 'algo'"):
        composed(configs, "algo=di4c")
    assert composed(configs, "+algo=di4c")["algo"]["name"] == "di4c"


@pytest.mark.parametrize("configs", ["sdtt"], indirect=True)
def test_ours_come_first_only_for_the_app_itself(configs: Path) -> None:
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("other", str(configs))
    manipulate(path)
    assert [element.provider for element in path.get_path()] == ["hydra", "other", "di4c_plugin"]
    path.append("main", f"file://{configs}")
    manipulate(path)
    assert path.get_path()[0].path == str(configs_dir() / "hosts" / "sdtt")
