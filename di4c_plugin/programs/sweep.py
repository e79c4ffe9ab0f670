"""Sweeps of a host's program, `--multirun`: each job gets what it chooses of ours, and may fail.

Hydra builds callbacks before it applies what is swept, so that a callback which a swept group
brings along is never called; and its launcher ends all jobs when one calls `sys.exit`.
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
    """Hydra's callbacks, and those of ours that a job brings along; pickled to other processes."""

    def on_job_start(self, config: DictConfig, **others: Any) -> None:
        """Let the host have its own classes again, then call all."""
        from di4c_plugin.programs.text.swap import restore

        restore()
        super().on_job_start(config=config, **others)
        called = {type(callback) for callback in self.callbacks}
        for options in (OmegaConf.select(config, "hydra.callbacks") or {}).values():
            target = str(options.get("_target_"))
            if target.startswith(PACKAGE) and get_class(target) not in called:
                instantiate(options).on_job_start(config=config, **others)


def prepare() -> None:
    """Have Hydra use both in this process; what it does not have is left alone."""
    hydra: Any = importlib.import_module(HYDRA)
    launcher: Any = importlib.import_module(LAUNCHER)
    hydra.Callbacks = JobCallbacks
    if not hasattr(launcher.run_job, "__wrapped__"):
        launcher.run_job = failing_alone(launcher.run_job)


def failing_alone(run_job: Callable[..., JobReturn]) -> Callable[..., JobReturn]:
    """Return Hydra's function with an exit of the job as its failure, told when all have run."""

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
