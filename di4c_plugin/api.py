"""The Python API: load a teacher, distil it, load a student, sample from either.

Tests: tests/test_api.py; the README's examples are run there too.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.hosts import Host, load_source
from di4c_plugin.models import Model
from di4c_plugin.plugins import lookup

if TYPE_CHECKING:
    from di4c_plugin.training import TrainingConfig


def load_teacher(source: str | Path = "builtin:digits") -> Model:
    """Return the teacher that `source` names: "builtin:digits" or the path of a model file.

    A student may be a teacher too (Di4C applied twice).

    Raises:
        UserError: if there is no such teacher, or its file is damaged.
    """
    return load_source(source)


def load_student(source: str | Path) -> Model:
    """Return a student saved by `di4c train`, `di4c demo` or `Model.save`.

    Raises:
        UserError: as for `load_teacher`, or if the file holds a teacher.
    """
    model = load_source(source)
    if not model.is_student:
        raise UserError(f"{source} is a teacher, not a student: it has no latent")
    return model


def distill(
    teacher: Model,
    data: Data | None = None,
    *,
    algo: Mapping[str, Any] | None = None,
    latent: Mapping[str, Any] | None = None,
    training: "TrainingConfig | None" = None,
    host: str = "builtin",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Model:
    """Return a student of the teacher, with the moving average of its weights, in eval mode.

    Args:
        teacher: a product model, or a student to be distilled once more.
        data: training data; by default the host's.
        algo: name and options of a registered algorithm; by default {"name": "di4c"}.
        latent: name and options of the latent injector; by default {"name": "adaln"}.
        training: length, learning rate and the like.
        host: whose networks and data these are.
        out: folder for checkpoints, logs and the student; None: nothing is written.
        resume: go on from the last checkpoint in `out`.
        overwrite: replace the run that `out` holds.
        progress: show a bar, or lines where there is no terminal.

    Raises:
        UserError: for unknown names and options, a latent where the algorithm makes no mixture,
            and as `di4c_plugin.training.train`.
    """
    # Lightning takes longer to import than a few samples take to draw.
    from di4c_plugin.training import TrainingConfig, make_algorithm, train

    adapter: Host = lookup("host", host)()
    algo, training = {"name": "di4c"} | dict(algo or {}), training or TrainingConfig()
    method = make_algorithm(algo, teacher.process)
    if method.makes_mixture:
        latent = {"name": "adaln"} | dict(latent or {})
        student = new_student(adapter, teacher, latent, training.seed)
    elif latent is None:
        student = teacher
    else:
        raise UserError(f"algorithm {algo['name']!r} makes no mixture: leave out the latent")
    return train(
        method,
        student,
        teacher,
        data or adapter.data(),
        training,
        None if out is None else Path(out),
        info={"algo": algo, "latent": latent},
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )


def new_student(adapter: Host, teacher: Model, latent: dict[str, Any], seed: int) -> Model:
    """Return the student that training starts from; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return adapter.build_student(teacher, latent)


def sample(
    model: Model,
    n: int,
    *,
    steps: int,
    seed: int = 0,
    sampler: str = "ancestral",
    cond: Tensor | None = None,
    batch_size: int = 250,
    device: str | torch.device = "cpu",
    on_batch: Callable[[int], None] | None = None,
    **options: Any,
) -> Tensor:
    """Draw n samples, shape (n, D), int64, on the CPU.

    Args:
        model: teacher or student; it is moved to `device`.
        n: how many.
        steps: network calls a sample.
        seed: equal seeds give equal samples for an equal batch size.
        sampler: a registered sampler, such as "ancestral" or "hybrid".
        cond: class labels (n,), -1 for none; or None.
        batch_size: samples drawn at once.
        device: where to compute.
        on_batch: called with the number of samples done after each batch.
        options: passed to the sampler, such as teacher=..., teacher_steps=... for "hybrid".

    Raises:
        UserError: for steps or n below 1, an unknown sampler, options it does not take, labels or
            a teacher that do not go with the model, and a device that this machine lacks.
    """
    if n < 1 or batch_size < 1:
        raise UserError(f"n and batch_size must be at least 1, not {n} and {batch_size}")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be in [0, 2^63), not {seed}")
    draw, times = lookup("sampler", sampler), time_grid(steps)
    check_labels(model, cond, n)
    check_options(draw, sampler, options)
    check_partners(model, options)
    device = usable(device)
    options = {k: v.denoiser.to(device) if isinstance(v, Model) else v for k, v in options.items()}
    generator = torch.Generator(device).manual_seed(seed)
    denoiser, process = model.denoiser.to(device), model.process
    done: list[Tensor] = []
    for start in range(0, n, batch_size):
        count = min(batch_size, n - start)
        x = process.prior((count, model.network.positions), generator=generator, device=device)
        labels = None if cond is None else cond[start : start + count].to(device)
        x = draw(denoiser, x, times, process=process, generator=generator, cond=labels, **options)
        done.append(x.cpu())
        if on_batch is not None:
            on_batch(start + count)
    return torch.cat(done)


def check_options(draw: Callable[..., Tensor], name: str, options: dict[str, Any]) -> None:
    """Refuse options that the sampler does not take, and missing ones that it needs.

    Raises:
        UserError: naming them.
    """
    given = {"process": None, "generator": None, "cond": None} | options
    try:
        inspect.signature(draw).bind(None, None, None, **given)
    except TypeError as error:
        raise UserError(f"sampler {name!r}: {error}") from error


def check_labels(model: Model, cond: Tensor | None, n: int) -> None:
    """Refuse class labels that the model does not know.

    Raises:
        UserError: naming those that it knows.
    """
    if cond is None:
        return
    classes = model.network.num_classes
    if not classes:
        raise UserError("this model takes no class labels")
    if cond.shape != (n,):
        raise UserError(f"{n} samples take {n} class labels, not a tensor of {tuple(cond.shape)}")
    if cond.min() < -1 or cond.max() >= classes:
        raise UserError(f"class labels of this model are 0 ... {classes - 1}, or -1 for none")


def check_partners(model: Model, options: dict[str, Any]) -> None:
    """Refuse further models, such as the teacher of "hybrid", that are for other states.

    Raises:
        UserError: naming the option.
    """
    for name, other in options.items():
        if isinstance(other, Model) and (
            other.process.config != model.process.config
            or other.network.positions != model.network.positions
        ):
            raise UserError(f"{name} does not go with this model: other data or another process")


def usable(device: str | torch.device) -> torch.device:
    """Return the device, once something has been put there.

    Raises:
        UserError: if this machine, or this build of torch, has no such device.
    """
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot use device {str(device)!r}: {reason}") from error
