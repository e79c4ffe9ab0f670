"""Sweeps of a host's program, `--multirun`: each job gets its own callbacks, and may fail alone.

Hydra builds callbacks before it applies a job's overrides, so that it never calls a callback of a
swept group; it refuses a key of a swept group, `sampler=ancestral,maskgit sampler.steps=4`, as the
config before the sweep has none; and its launcher ends all jobs when one calls `sys.exit`.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.defaults_list import DefaultsList
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from di4c_plugin.files import configs_dir

PACKAGE = "di4c_plugin."
HYDRA, LAUNCHER = "hydra._internal.hydra", "hydra._internal.core_plugins.basic_launcher"
LOADER = "hydra._internal.config_loader_impl"


class JobCallbacks(Callbacks):
    """Hydra's callbacks, and ours from a job's config; pickled to other processes."""

    def on_job_start(self, config: DictConfig, **others: Any) -> None:
        """Restore the host's own classes, then call all callbacks."""
        from di4c_plugin.programs.text.swap import restore

        restore()
        super().on_job_start(config=config, **others)
        called = {type(callback) for callback in self.callbacks}
        for options in (OmegaConf.select(config, "hydra.callbacks") or {}).values():
            target = str(options.get("_target_"))
            if target.startswith(PACKAGE) and get_class(target) not in called:
                instantiate(options).on_job_start(config=config, **others)


def prepare() -> None:
    """Make Hydra use all three in this process."""
    hydra: Any = importlib.import_module(HYDRA)
    hydra.Callbacks = JobCallbacks
    for module, name, wrap in (
        (LAUNCHER, "run_job", failing_alone),
        (LOADER, "create_defaults_list", keys_left_to_jobs),
    ):
        changed: Any = importlib.import_module(module)
        if not hasattr(getattr(changed, name), "__wrapped__"):
            setattr(changed, name, wrap(getattr(changed, name)))


def keys_left_to_jobs(create: Callable[..., DefaultsList]) -> Callable[..., DefaultsList]:
    """Return Hydra's `create_defaults_list` such that keys of our swept groups wait for the jobs.

    Those of the host's own groups do not: `hydra.sweep.dir` may name them.
    """

    @functools.wraps(create)
    def run(
        repo: Any, config_name: str | None, overrides_list: list[Override], **options: Any
    ) -> DefaultsList:
        found = create(repo, config_name, overrides_list, **options)
        groups = [o.key_or_group for o in overrides_list if o.is_sweep_override()]
        swept = tuple(f"{group}." for group in groups if (configs_dir() / group).is_dir())
        keys = found.config_overrides
        found.config_overrides = [key for key in keys if not key.key_or_group.startswith(swept)]
        return found

    return run


def failing_alone(run_job: Callable[..., JobReturn]) -> Callable[..., JobReturn]:
    """Return Hydra's `run_job` such that an exit of a job is its failure, reported at the end."""

    @functools.wraps(run_job)
    def run(*arguments: Any, **options: Any) -> JobReturn:
        try:
            return run_job(*arguments, **options)
        except SystemExit as stop:
            if not stop.code:
                raise
            overrides = list(options["config"].hydra.overrides.task)
            failed = JobReturn(overrides=overrides, status=JobStatus.FAILED)
            failed.return_value = stop
            return failed

    return run
