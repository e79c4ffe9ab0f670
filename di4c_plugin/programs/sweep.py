"""Sweeps of a host's program, `--multirun`: each job gets its own callbacks, and may fail alone.

Hydra builds callbacks before it applies a job's overrides, so that it never calls a callback of a
swept group; and its launcher ends all jobs when one calls `sys.exit`.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

PACKAGE = "di4c_plugin."
HYDRA, LAUNCHER = "hydra._internal.hydra", "hydra._internal.core_plugins.basic_launcher"


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
    """Make Hydra use both in this process."""
    hydra: Any = importlib.import_module(HYDRA)
    launcher: Any = importlib.import_module(LAUNCHER)
    hydra.Callbacks = JobCallbacks
    if not hasattr(launcher.run_job, "__wrapped__"):
        launcher.run_job = failing_alone(launcher.run_job)


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
