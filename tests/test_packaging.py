"""Both installs, each in a fresh environment that borrows only the dependencies."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

App = Callable[[str], dict[str, object]]
ROOMS = (".assets", ".github", "configs", "di4c_plugin", "tests")
APP = """
import json, sys
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    choices = HydraConfig.get().runtime.choices
    print(json.dumps({"algo": choices.get("algo"), "torch": "torch" in sys.modules}))

main()
"""


def files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if path.suffix != ".pyc"}


def output(*command: str | Path, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as for a release."""
    folder = tmp_path_factory.mktemp("wheel")
    output(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, repository, cwd=folder
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def programs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Path:
    """The folder of `python` and `di4c` of a fresh environment with the package installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    # A path file lends pip and the dependencies. Path files in the lent folder are not read, so an
    # editable install of ours in there stays out of sight.
    site = output(
        programs / "python",
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'), end='')",
        cwd=folder,
    )
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site) / "lent.pth").write_text("\n".join(lent))
    if request.param == "wheel":
        target = [str(request.getfixturevalue("wheel"))]
    else:
        target = ["--no-build-isolation", "--editable", str(repository)]
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    output(programs / "python", *pip, *target, cwd=folder)
    return programs


@pytest.fixture
def foreign_app(programs: Path, tmp_path: Path) -> App:
    """Run a Hydra app that knows nothing of us, in its own folder, with one override."""
    (tmp_path / "app.py").write_text(APP)

    def run(override: str) -> dict[str, object]:
        answer: dict[str, object] = json.loads(
            output(programs / "python", "app.py", override, cwd=tmp_path)
        )
        return answer

    return run


def test_the_wheel_holds_package_and_configs_and_nothing_else(
    wheel: Path, repository: Path
) -> None:
    def shipped(folder: Path) -> set[str]:
        return {name for name in files(folder) if not name.endswith("README.md")}

    package = repository / "di4c_plugin"
    hydra = files(package / "hydra_root")
    expected = {f"di4c_plugin/configs/{name}" for name in shipped(repository / "configs")}
    expected |= {f"di4c_plugin/{name}" for name in shipped(package)} | hydra
    expected -= {f"di4c_plugin/hydra_root/{name}" for name in hydra}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_the_source_distribution_has_what_tests_and_readers_need(
    wheel: Path, repository: Path
) -> None:
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", ".ci/run", ".ci/constraints.txt", ".gitmodules"}
    wanted |= {f"{room}/{name}" for room in ROOMS for name in files(repository / room)}
    assert wanted <= names
    assert not any(name.startswith("external") for name in names)


def test_any_hydra_app_finds_the_configs(foreign_app: App) -> None:
    assert foreign_app("+algo=di4c")["algo"] == "di4c"


def test_a_hydra_app_that_does_not_use_us_does_not_pay(foreign_app: App) -> None:
    assert foreign_app("+seed=1") == {"algo": None, "torch": False}


@pytest.mark.slow
def test_the_program_runs(programs: Path, tmp_path: Path) -> None:
    version = output(programs / "di4c", "--version", cwd=tmp_path).strip()
    listed = output(programs / "di4c", "plugins", cwd=tmp_path)
    assert listed.startswith("plugin\tdistribution\tkind\tnames\n")
    assert f"\nbuiltins\tdi4c_plugin {version}\thost\t" in listed
