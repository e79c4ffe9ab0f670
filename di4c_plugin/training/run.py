"""`train`: a run, from the initial networks to the finished model."""

import contextlib
import platform
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from di4c_plugin.algorithms.base import Algorithm, Data
from di4c_plugin.announce import announce
from di4c_plugin.checkpoints.model import STUDENT as STUDENT_ROLE
from di4c_plugin.checkpoints.model import TEACHER as TEACHER_ROLE
from di4c_plugin.checkpoints.model import Model, with_info
from di4c_plugin.diffusion import Absorbing
from di4c_plugin.errors import STRANGE, UserError, is_of_memory
from di4c_plugin.plugins import lookup
from di4c_plugin.training.checkpoint import CheckpointFiles, LastCheckpoint
from di4c_plugin.training.config import TrainingConfig
from di4c_plugin.training.engine import check_rounds
from di4c_plugin.training.folder import ADAPTER, STUDENT, TEACHER, RunFolder
from di4c_plugin.training.interrupt import Interrupted, SignalFlag
from di4c_plugin.training.lock import held
from di4c_plugin.training.module import TrainingModule
from di4c_plugin.training.progress import ShowProgress
from di4c_plugin.training.sharding import block_names
from di4c_plugin.training.trainer import is_first_process, make_trainer, quiet
from di4c_plugin.values import shown

# What takes less memory.
LESS = "try a smaller training.batch_size, algo.loss_mb, or number of algo.latents or fill-ins"


def train(
    algorithm: Algorithm,
    student: Model,
    teacher: Model | None,
    data: Data,
    config: TrainingConfig | None = None,
    out: Path | None = None,
    *,
    others: Mapping[str, Model] | None = None,
    info: Mapping[str, Any] | None = None,
    inputs: Sequence[object] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Model:
    """Train `student`; return it with averaged weights, in eval mode, on the CPU.

    The arguments are not changed.

    Args:
        algorithm: the method.
        student: where training starts.
        teacher: None for methods without one.
        data: at least one example.
        config: by default `TrainingConfig()`.
        out: the folder of the run, see `training.folder`, locked against other runs. None: nothing
            is written, and nothing can be resumed.
        others: where the method's further networks start, by role.
        info: plain values that define the run beside `config`; saved, and compared on resuming.
        inputs: paths of files that the run reads, beside those named in `info`; they are never
            replaced or removed.
        resume: continue from last.ckpt, or start if there is none yet.
        overwrite: replace the run in `out`, but no other files there.
        progress: show a bar on a terminal, else lines, on stderr.
        callbacks: further ones for Lightning's loop.

    Raises:
        UserError: for missing arguments, options of an adapter for a student without one, a folder
            that holds another run, is in use by one or has other files in the way, a machine
            without these devices, and a loss that is not finite.
        Interrupted: on SIGINT and SIGTERM, after the current update is finished and saved.
    """
    config = config or TrainingConfig()
    if not isinstance(callbacks, Sequence) or not all(isinstance(c, Callback) for c in callbacks):
        raise UserError(f"callbacks must be a list of Lightning's Callback, not {shown(callbacks)}")
    if algorithm.needs_teacher and teacher is None:
        raise UserError(f"{type(algorithm).__name__} needs a teacher")
    networks = {"student": student, **(others or {})}
    assert networks.keys() == algorithm.roles.keys(), f"networks for {set(algorithm.roles)}"
    if config.adapter is not None and student.adapter is None:
        raise UserError("training.adapter is for students; this trains a whole network")
    check_data(data, student)
    check_rounds(algorithm.rounds if config.rounds is None else config.rounds, config.steps)
    blocks = {}
    if config.strategy == "fsdp":
        models = {**networks, "teacher": teacher}
        blocks = {name: block_names(model) for name, model in models.items() if model is not None}
    description = {**(info or {}), "student": anatomy(student), "training": asdict(config)}
    name = None if out is None else model_file(Path(out), algorithm, config).name
    with _opened(out, description, name, inputs, resume=resume, overwrite=overwrite) as folder:
        module = TrainingModule(
            algorithm,
            {name: model.denoiser for name, model in networks.items()},
            teacher.denoiser if teacher else None,
            data if student.network.num_classes else replace(data, labels=None),
            config,
            blocks,
        )
        bars = [ShowProgress()] if progress else []
        _fit(module, config, folder, [*bars, *callbacks], resume=resume)
        trained = module.student().cpu().requires_grad_(True)
        role = STUDENT_ROLE if algorithm.needs_teacher else TEACHER_ROLE
        info = {k: v for k, v in student.info.items() if k not in ("origin", "fingerprint")}
        model = with_info(
            replace(
                student, denoiser=trained, info=info, role=role, sampling=dict(algorithm.sampling)
            ),
            **published(description),
            command=command(),
            versions=versions(),
        )
        if folder and is_first_process():
            model.save(model_file(folder.path, algorithm, config))
            folder.finish()
    return model


def _fit(
    module: TrainingModule,
    config: TrainingConfig,
    folder: RunFolder | None,
    callbacks: Sequence[Callback],
    *,
    resume: bool,
) -> None:
    """Claim the folder and train; errors as for `train`."""
    flag = SignalFlag()
    keeper = LastCheckpoint(folder.checkpoint if folder else None, config.checkpoint_every, flag)
    alternates = len(module.engine.algorithm.roles) > 1
    with quiet(), flag:
        files = CheckpointFiles(previous=folder.previous if folder else None)
        trainer = make_trainer(
            config,
            folder.path if folder else None,
            [keeper, *callbacks],
            files,
            alternates=alternates,
        )
        if folder and is_first_process():
            folder.claim(resume=resume)
        start = folder.checkpoint if folder and resume and folder.begun else None
        try:
            # weights_only: loading executes no code.
            trainer.fit(module, ckpt_path=start, weights_only=True)
        except BaseException as error:
            if folder and is_first_process():
                folder.release()
            if is_of_memory(error):
                raise UserError(f"not enough memory: {LESS}") from error
            if start is None or keeper.began or not isinstance(error, STRANGE):
                raise
            raise UserError(f"{start} is damaged; start again with overwrite") from error
    if keeper.stopped:
        raise Interrupted(flag.signum or signal.SIGINT, trainer.global_step, keeper.path)


def anatomy(model: Model) -> dict[str, Any]:
    """Return network, process, latent and adapter of a model, as plain values."""
    return {
        "network": asdict(model.network),
        "process": model.process.config,
        "latent": model.latent,
    } | ({} if model.adapter is None else {"adapter": model.adapter})


def published(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a run for its model file, without paths of this machine."""
    host = description.get("host")
    if not isinstance(host, Mapping):
        return dict(description)
    kept = {"name", *lookup("host", host["name"]).kept}
    return {**description, "host": {k: v for k, v in host.items() if k in kept}}


def model_file(out: Path, algorithm: Algorithm, config: TrainingConfig) -> Path:
    """Return where the finished model goes: `out`/student.safetensors, or teacher.safetensors.

    An adapter goes to `out`/adapter_model.safetensors.
    """
    if config.adapter is not None:
        return out / ADAPTER
    return out / (STUDENT if algorithm.needs_teacher else TEACHER)


def command() -> str:
    """Return the command line of this process, without the program's folder."""
    path = Path(sys.argv[0])
    by_module = path.name == "__main__.py"
    program = ["python", "-m", path.parent.name] if by_module else [path.name]
    return shlex.join([*program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine a run's results."""
    packages = {name: version(name) for name in ("di4c_plugin", "lightning", "numpy", "torch")}
    return {"python": platform.python_version(), **packages}


def check_data(data: Data, model: Model) -> None:
    """Refuse data that do not fit the model.

    Raises:
        UserError: for no data, examples of the wrong length, tokens or labels that the model does
            not have, and masks in the data.
    """
    x_0, process, labels = data.x_0, model.process, data.labels
    if len(x_0) == 0:
        raise UserError("there are no data to train on")
    longest = model.network.positions
    shorter = getattr(model.network, "variable", False) and 0 < x_0.shape[-1] < longest
    if x_0.shape[1:] != (longest,) and not (shorter and x_0.ndim == 2):
        raise UserError(
            f"an example has {tuple(x_0.shape[1:])} tokens, the model {model.network.positions}"
        )
    if data.given is not None and bool(data.given.all()):
        raise UserError("every token of the data is given: there is nothing to learn")
    if data.lengths is not None and data.lengths.min() < 1:
        raise UserError(f"an example has a length of {int(data.lengths.min())} tokens")
    mask = getattr(process, "mask", None)
    last = process.num_tokens - 1 - (mask == process.num_tokens - 1)
    if x_0.min() < 0 or x_0.max() > last:
        raise UserError(
            f"tokens are 0 ... {last} here, and the data have {x_0.min()} ... {x_0.max()}"
        )
    if mask is not None and bool((x_0 == mask).any()):
        raise UserError(f"the data hold the mask, {mask}: it is no token of a text")
    barred = torch.tensor(getattr(process, "barred", ()), dtype=x_0.dtype)
    counted = x_0 if data.given is None else x_0[~data.given]
    if len(barred) and bool((wrong := torch.isin(counted, barred)).any()):
        raise UserError(f"the data hold {int(counted[wrong][0])}, which the model never predicts")
    if data.given is not None and not isinstance(process, Absorbing):
        name = process.config["name"]
        raise UserError(f"prompts and padding are for masked diffusion, not process={name}")
    classes = model.network.num_classes
    if labels is not None and classes and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(
            f"class labels are 0 ... {classes - 1} here, and the data have "
            f"{labels.min()} ... {labels.max()}"
        )


@contextlib.contextmanager
def _opened(
    out: Path | None,
    description: Mapping[str, Any],
    model: str | None,
    inputs: Sequence[object],
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[RunFolder | None]:
    """Yield the folder of the run, locked and checked; None without one."""
    if out is None or model is None:
        if resume:
            raise UserError("to resume, name the folder of the run")
        yield None
        return
    out = Path(out)
    folder = RunFolder(out, description, model, tuple(inputs))
    # Lightning starts the other processes with the same command, after the first has the lock.
    if not is_first_process():
        yield folder
        return
    with held(out):
        folder.check(resume=resume, overwrite=overwrite)
        if resume and not folder.begun:
            announce(f"nothing to resume in {out}: starting at update 0")
        yield folder
