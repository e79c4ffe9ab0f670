"""Lightning's Trainer, set up for our runs and kept quiet."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from di4c_plugin.announce import announce_once
from di4c_plugin.errors import UserError
from di4c_plugin.limits import exceeds, over
from di4c_plugin.training.checkpoint import CheckpointFiles
from di4c_plugin.training.config import TrainingConfig

LOGS = "logs"
PROCESSES = 8  # for each core of a CPU, at most


def make_trainer(
    config: TrainingConfig,
    out: Path | None,
    callbacks: list[Callback],
    files: CheckpointFiles,
    *,
    alternates: bool,
) -> Trainer:
    """Return the trainer of a run.

    Args:
        config: see `TrainingConfig`.
        out: the run's folder; None for a run that leaves no files.
        callbacks: all of them; Lightning's own are off.
        files: how checkpoints are written and read.
        alternates: whether an update may skip one of the trained networks.

    Raises:
        UserError: if Lightning knows no such accelerator or strategy, or finds no such devices, and
            for too many processes on the CPU.
    """
    accelerator = with_float64(config.accelerator)
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not CUDAAccelerator.is_available())
    if on_cpu and exceeds(config.devices, most := PROCESSES * (os.cpu_count() or 1)):
        raise UserError(over(f"devices is at most {most} on this CPU, not {config.devices}"))
    strategy: Any = config.strategy
    if strategy == "fsdp":
        from di4c_plugin.training.sharded import ShardedStrategy

        strategy = ShardedStrategy(config.devices, files)
    elif alternates and config.devices > 1:
        strategy = "ddp_find_unused_parameters_true"
    try:
        return Trainer(
            accelerator=accelerator,
            devices=config.devices,
            strategy=strategy,
            # Networks run under an autocast of our own, so that losses stay in fp32.
            precision="32-true",
            max_steps=config.steps,
            max_epochs=-1,
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip or None,
            logger=make_logger(config.logger, out) or False,
            callbacks=callbacks,
            plugins=[files],
            default_root_dir=out,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def with_float64(accelerator: str) -> str:
    """Return the accelerator, or "cpu" with a warning for Apple's mps, which has no float64."""
    mps = accelerator == "mps" or (
        accelerator in ("auto", "gpu") and not CUDAAccelerator.is_available()
    )
    if mps and MPSAccelerator.is_available():
        announce_once("accelerator mps has no float64, which training needs: using the CPU")
        return "cpu"
    return accelerator


def make_logger(name: str, out: Path | None) -> Logger | None:
    """Return the logger `name`, which writes under `out`/logs; None for "none" or without `out`.

    Raises:
        UserError: if it needs a package that is not installed, or a file is where logs/ should be.
    """
    if out is None or name == "none":
        return None
    if name != "wandb" and (out / LOGS).exists() and not (out / LOGS).is_dir():
        raise UserError(f"{out / LOGS} is not a folder: move it, or choose another folder")
    try:
        if name == "tensorboard":
            return TensorBoardLogger(out, name=LOGS)
        if name == "wandb":
            # Without WANDB_MODE a run must not wait for a login or a network.
            offline = os.environ.get("WANDB_MODE", "offline") == "offline"
            return WandbLogger(save_dir=out, name=out.name, offline=offline)
    except ModuleNotFoundError as error:
        raise UserError(f"logger {name!r} needs the package {name}: pip install {name}") from error
    # Each start of a run logs to a new file, version_0 and so on, flushed at every line.
    return CSVLogger(out, name=LOGS, flush_logs_every_n_steps=1)


def is_first_process() -> bool:
    """Return whether this process writes files and messages; true outside a run too."""
    return getattr(rank_zero_only, "rank", None) in (None, 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hints about options that we chose."""
    logs = {name: logging.getLogger(f"lightning.{name}") for name in ("fabric", "pytorch")}
    levels = {name: log.level for name, log in logs.items()}
    for log in logs.values():
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # Our modules' outputs are not modified in place.
            warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(FSDP(Block|\w*Denoiser)\)")
            yield
    finally:
        for name, log in logs.items():
            log.setLevel(levels[name])
