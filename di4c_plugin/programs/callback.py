"""The Hydra callback that `algo=di4c` and `sampler=…` select: it enters the host's program.

Hydra calls it in the job's process before the host's `main`, and in the processes that Lightning
starts. The adapter of the program then replaces the class that the host looks up at call time.
"""

import contextlib
import os
import pkgutil
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from di4c_plugin.announce import announce_once
from di4c_plugin.checkouts import Checkout, Program, commit_of, host_of_configs
from di4c_plugin.errors import UserError
from di4c_plugin.files import configs_dir
from di4c_plugin.plugins import names_of, programs
from di4c_plugin.programs.shims import remedies
from di4c_plugin.programs.text.errors import one_line
from di4c_plugin.training.recipes import Recipe, checked

METHOD, FILE = "algorithm", "file:"
NOT_CHOSEN = "default"  # the latent of configs/di4c_text
# Keys of ours that name files; those of a host are its `Program.files`.
FILES = (
    "teacher",
    "student",
    "sampler.teacher",
    "sampler.known",
    "metrics.scorer",
    "metrics.mauve_model",
    "metrics.reference",
)
OUTPUTS = ("metrics.shards", "metrics.json")


class Install(Callback):
    """Installs the adapter of the running host program, and measures its samples."""

    measurement: Any = None

    @one_line
    def on_job_start(
        self, config: DictConfig, *, task_function: TaskFunction, **others: Any
    ) -> None:
        """Install the adapter, or exit: Hydra would only warn, and run the host without it.

        A `UserError` (an unknown host, or an error of the adapter) ends the program with one line.
        """
        with ending_on_bugs():
            self.measurement = getattr(install(config), "measurement", None)

    @one_line
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **others: Any) -> None:
        """Measure the samples of a completed evaluation; errors as in `on_job_start`."""
        if self.measurement is not None and job_return.status is JobStatus.COMPLETED:
            with ending_on_bugs():
                self.measurement.finish()


@contextlib.contextmanager
def ending_on_bugs() -> Iterator[None]:
    """Exit with a traceback on any exception but `UserError`, which passes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


def install(config: DictConfig) -> Any:
    """Install the adapter of the running host program, and return the run's plan.

    Raises:
        UserError: if the host is unknown, and as the adapters.
    """
    sources = {source.provider: source.path for source in config.hydra.runtime.config_sources}
    hosts = programs()
    host = host_of_configs(sources.get("main", ""), hosts)
    if host is None:
        names = ", ".join(host.name for host in hosts if host.configs)
        raise UserError(f"this is not the program of a known host ({names})")
    warn_of_commit(host, sources["main"])
    remedies.install(host)
    adapter = pkgutil.resolve_name(host.adapter)
    values = absolute_paths(plain(config), Path(config.hydra.runtime.cwd), host.files)
    check_wandb(values)
    try:
        return adapter(with_choices(values, config.hydra))
    except ModuleNotFoundError as error:
        message = f"{host.name} needs {error.name}, which is not installed"
        raise UserError(f"{message}: di4c run {host.script} … has what it lacks") from error


def check_wandb(config: Mapping[str, Any]) -> None:
    """Refuse to start a run whose config logs to wandb if that is not installed."""
    for_samples = str(config.get("mode", "")).startswith("sample")
    if config.get("wandb") and not for_samples and find_spec("wandb") is None:
        raise UserError(
            "the config logs to wandb, which is not installed: add wandb=null, or pip install wandb"
        )


def warn_of_commit(host: Program, configs: str) -> None:
    """Announce a warning if the host is not at the tested commit."""
    root = host.root_of_program(Path(configs.removeprefix("file://")).parent)
    warning = None if root is None else Checkout(host, root, commit_of(root)).warning
    if warning is not None:
        announce_once(f"warning: {warning}")


def absolute_paths(
    config: dict[str, Any], folder: Path, files: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the config with absolute paths where we read or write files, and at the keys `files`.

    The hosts change into their output folder before a job starts, but users type paths relative to
    `folder`. An input path is made absolute only if it exists there.
    """
    for name in (*FILES, *files, *OUTPUTS):
        *groups, key = name.split(".")
        section: Any = config
        for group in groups:
            section = section.get(group) if isinstance(section, dict) else None
        value = section.get(key) if isinstance(section, dict) else None
        if not isinstance(value, str) or not value:
            continue
        scheme = FILE if value.startswith(FILE) and not os.path.exists(folder / value) else ""  # noqa: PTH110
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # not a path
            path = folder / Path(value.removeprefix(scheme)).expanduser()
            if path.exists() or name in OUTPUTS:
                section[key] = f"{scheme}{path}"
    return config


def with_choices(config: dict[str, Any], hydra: DictConfig) -> dict[str, Any]:
    """Return the config completed by the choices that only Hydra knows.

    If `algo.name` is a name of the host's program and not one of our methods, `algo.method` becomes
    the chosen file of the group, unless the file sets it. A latent whose file neither the user nor
    an experiment chose is the recipe's with the options that they set (`Recipe.latent_with`), or
    left out for methods that can do without.

    Raises:
        UserError: if the recipe or its latent is no mapping.
    """
    algo, chosen = config.get("algo"), hydra.runtime.choices.get("algo")
    if (
        isinstance(algo, dict)
        and "teacher_ema" in config
        and algo.get("name") not in names_of(METHOD)
    ):
        algo.setdefault("method", chosen)
    if hydra.runtime.choices.get("latent") == NOT_CHOSEN:
        keys = {override.lstrip("+").partition("=")[0] for override in hydra.overrides.task}
        default = OmegaConf.load(configs_dir() / "latent" / "token.yaml")
        options = {
            name: value
            for name, value in config["latent"].items()
            if f"latent.{name}" in keys or name not in default or value != default[name]
        }
        section = checked(config.get("recipe"), "recipe")
        recipe = Recipe(latent=checked(section.get("latent"), "recipe.latent") or None)
        if recipe.latent and not config.get("student"):  # a student has its own
            config["latent"] = recipe.latent_with(options or None)
        elif not options:
            del config["latent"]
    return config


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a job's config without the section `hydra`, as plain values.

    Raises:
        UserError: if an interpolation cannot be resolved.
    """
    copied = config.copy()
    with open_dict(copied):
        copied.pop("hydra", None)
    try:
        values: Any = OmegaConf.to_container(copied, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the config cannot be read: {str(error).splitlines()[0]}") from error
    return values
