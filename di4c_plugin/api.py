"""The Python API: load a teacher, distil it, load a student, sample from either."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from di4c_plugin.algorithms.base import Data
from di4c_plugin.checkpoints.folder import save_folder
from di4c_plugin.checkpoints.model import Model
from di4c_plugin.diffusion import time_grid
from di4c_plugin.errors import UserError
from di4c_plugin.families.adapted import teaching
from di4c_plugin.files import named_file, user_path
from di4c_plugin.hosts import Host, OpenHost, load_source
from di4c_plugin.hosts.choose import as_host
from di4c_plugin.hosts.start import check_start, digests, start_networks
from di4c_plugin.limits import SAMPLES, exceeds, over
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.options import typed
from di4c_plugin.plugins import lookup, make
from di4c_plugin.samplers import Step, as_method, sampler_named, sampler_options
from di4c_plugin.samplers.batch import draw_batch
from di4c_plugin.samplers.checks import check_labels, check_partners, drawing, usable
from di4c_plugin.samplers.known import Tokens, known_tokens, prompted
from di4c_plugin.values import shown

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from di4c_plugin.training.config import TrainingConfig


@dataclass(frozen=True)
class LoadedModel(Model):
    """A model with the functions of this module as methods.

    Attributes:
        file: the file that it was loaded from, or None; not saved with the model.
    """

    file: Path | None = field(default=None, compare=False)

    @classmethod
    def of(cls, model: Model, file: Path | None = None) -> "LoadedModel":
        """Return the same model with these methods."""
        return cls(**{f.name: getattr(model, f.name) for f in fields(Model)}, file=file)

    def sample(self, n: int, *, steps: int | None = None, **options: Any) -> Tensor:
        """Draw n samples, shape (n, D); see `di4c_plugin.sample` for the options."""
        return sample(self, n, steps=steps, **options)


@typed
def load_teacher(
    source: str | Path = "builtin:digits",
    *,
    ema: bool = True,
    host: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Return the teacher that `source` names, in eval mode.

    Args:
        source: "builtin:digits"; the path of a model file of ours, of a checkpoint of MDLM, SDTT,
            Duo, MaskGIT, Halton-MaskGIT or tauLDR, of safetensors or of a state dict; a folder with
            model.safetensors; or a hub id such as "kuleshov-group/mdlm-owt" or
            "owner/name@revision". Nothing in a checkpoint is executed. It may be a student too.
        ema: use the moving averages if a checkpoint has them.
        host: {"name": "maskgit", "heads": 4, ...} (configs/host), for values that a checkpoint of
            an image host lacks; "name" may be left out if the file identifies its host.

    Raises:
        UserError: if there is no such teacher, it is damaged, or not a discrete diffusion model.
    """
    file = named_file(source)
    if host is None or "name" not in host:
        return LoadedModel.of(load_source(source, ema=ema, options=host), file)
    adapter: OpenHost = make("host", host)
    return LoadedModel.of(adapter.load_teacher(source, ema=ema), file)


@typed
def load_student(
    source: str | Path, *, ema: bool = True, host: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Return a student, written by `save_student`, `di4c train` or a host with `algo=di4c`.

    It reads the released students of Di4C too. Arguments as for `load_teacher`.

    Raises:
        UserError: as `load_teacher`, and if the source holds a teacher.
    """
    model = load_teacher(source, ema=ema, host=host)
    if not model.is_student:
        raise UserError(f"{source} is a teacher, not a student")
    return model


@typed
def save_student(model: Model, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a student to a folder: model.safetensors, config.json and a model card, README.md.

    The folder is ready for upload to the hub; `load_student` takes the folder, the file in it, or
    its hub id. Weights have the names of the host's network. Files of an earlier call are replaced;
    other files with these names, such as an edited card, only with `overwrite`.

    Raises:
        UserError: if the model is not a student, a file is in the way, or the system refuses.
    """
    if not model.is_student:
        raise UserError("this model is a teacher, not a student")
    save_folder(model, user_path(folder), overwrite=overwrite)


@typed
def distill(
    teacher: Model,
    data: Data | None = None,
    *,
    algo: Mapping[str, Any] | None = None,
    latent: Mapping[str, Any] | None = None,
    start: Model | None = None,
    training: "TrainingConfig | Mapping[str, Any] | None" = None,
    host: str | Mapping[str, Any] | Host | OpenHost | None = None,
    out: str | Path | None = None,
    info: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: "Sequence[Callback]" = (),
) -> LoadedModel:
    """Return a student of the teacher, with averaged weights, in eval mode.

    Args:
        teacher: a product model, or a student to be distilled again.
        data: training data; by default the host's.
        algo: name and options of a registered algorithm; by default {"name": "di4c"}. They override
            the recipe (configs/recipe), which overrides the defaults of the method's class.
        latent: name and options of the latent; by default the recipe's, else the host's if the
            method needs one, else none.
        start: a student to continue from, with its latent; by default the teacher.
        training: length, learning rate and so on: a config, or options over the recipe's.
        host: the host of networks and data: a name, {"name": ..., **options} as in configs/host,
            or a host; by default the teacher's.
        out: folder for checkpoints, logs and the student; None: nothing is written.
        info: further plain values, saved with the student and compared on resuming.
        resume: continue from the last checkpoint in `out`, or start if there is none yet.
        overwrite: replace the run in `out`, but no other files there, and never the teacher's.
        progress: show a bar on a terminal, else lines.
        callbacks: further callbacks of Lightning's loop.

    Raises:
        UserError: for unknown names and options, a latent that no network takes, a start with
            another latent or process, and as `di4c_plugin.training.run.train`.
    """
    # Imported here because Lightning takes longer to import than drawing a few samples takes.
    from di4c_plugin.training.build import make_algorithm
    from di4c_plugin.training.compose import training_config
    from di4c_plugin.training.config import TrainingConfig
    from di4c_plugin.training.recipes import merged, recipe
    from di4c_plugin.training.run import train
    from di4c_plugin.training.start import check_method

    adapter = as_host(host, teacher)
    chosen = {"name": "di4c"} | dict(algo or {})
    lookup("algorithm", chosen["name"])
    if not isinstance(training, TrainingConfig | Mapping | None):
        raise UserError(f"training must be a TrainingConfig or a mapping, not {shown(training)}")
    defaults = recipe(adapter.name, chosen["name"])
    algo = defaults.algo_with(chosen)
    if not isinstance(training, TrainingConfig):
        training = training_config(merged(defaults.training, training or {}))
    method = make_algorithm(algo, teacher.process)
    check_method(method, algo["name"], latent)
    if start is not None:
        check_start(method, teacher, latent, start)
    latent = defaults.latent_with(latent)
    if training.adapter is None and start is not None and start.adapter is not None:
        raise UserError("the student to start from is an adapter: say training.adapter=, as its")
    lora = None if training.adapter is None else Adapter.of(training.adapter, "training.adapter")
    teacher = teaching(teacher, lora)
    networks = start_networks(adapter, method, teacher, latent, start, training.seed, lora)
    student = networks.pop("student")
    trained = train(
        method,
        student,
        teacher,
        data or adapter.data(),
        training,
        None if out is None else user_path(out),
        others=networks,
        info={"algo": algo, "latent": student.latent}
        | ({} if out is None else {"weights": digests(teacher, start)})
        | adapter.described()
        | dict(info or {}),
        inputs=[getattr(model, "file", None) for model in (teacher, start)]
        + [model.place.name for model in (teacher, start) if model is not None and model.place],
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        callbacks=callbacks,
    )
    return LoadedModel.of(trained)


@typed
def sample(
    model: Model,
    n: int,
    *,
    steps: int | None = None,
    seed: int = 0,
    sampler: str | None = None,
    cond: Tensor | None = None,
    prefix: Tokens | None = None,
    known: tuple[Tokens, Tokens] | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    new_tokens: int | None = None,
    batch_size: int = 250,
    device: str | torch.device = "cpu",
    on_batch: Callable[[int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    **options: Any,
) -> Tensor:
    """Draw n samples, shape (n, D), int64, on the CPU.

    Args:
        model: teacher or student; it is moved to `device`.
        n: how many.
        steps: network calls per sample; None: as the model's method says, else 8.
        seed: equal seeds give equal samples for an equal batch size.
        sampler: a registered sampler, such as "ancestral" or "hybrid"; None: that of the model's
            method, else "ancestral".
        cond: class labels (n,), -1 for none; or None.
        prefix: tokens (P,) or (n, P) that samples start with.
        known: tokens and bool mask, both (D,) or (n, D): given wherever the mask is true.
        prompts: token ids, n prompts or one for all, of any lengths; a sample is its prompt, the
            tokens drawn after it, and padding after the shorter ones.
        new_tokens: tokens drawn after each prompt; None: as many as fit after the longest.
        batch_size: samples drawn at once.
        device: of the computation.
        on_batch: called after each batch with the number of samples done.
        on_step: called after each step of each batch with the new states.
        options: passed to the sampler, such as teacher=..., teacher_steps=... for "hybrid", over
            those of the model's method.

    Raises:
        UserError: for steps or n below 1, an unknown sampler or option, labels, given tokens or a
            teacher that do not fit the model, and a device that this machine lacks.
    """
    if n < 1 or batch_size < 1:
        raise UserError(f"n and batch_size must be at least 1, not {n} and {batch_size}")
    if exceeds(n, SAMPLES):
        raise UserError(over(f"n is at most {SAMPLES}, not {n}"))
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be in [0, 2^63), not {seed}")
    steps, sampler, options = as_method(model, steps, sampler, options)
    with drawing():
        times = time_grid(steps)
    cond = check_labels(model, cond, n)
    if on_step is not None:
        options = options | {"callback": on_step}
    draw, options = sampler_named(sampler), sampler_options(sampler, options)
    check_partners(model, options)
    if prompts is None:
        given = known_tokens(prefix, known, n, model.network.positions, model.process)
    else:
        given = prompted(prompts, new_tokens, n, model.network, model.process)
    if sum(argument is not None for argument in (prompts, prefix, known)) > 1:
        raise UserError("prompts, prefix and known exclude each other")
    if new_tokens is not None and prompts is None:
        raise UserError("new_tokens goes with prompts")
    positions = model.network.positions if given is None else given[0].shape[1]
    device = usable(device)
    partners = {k: v.denoiser.to(device) for k, v in options.items() if isinstance(v, Model)}
    denoiser = model.denoiser.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    done: list[Tensor] = []
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        labels = {} if cond is None else {"cond": cond[rows].to(device)}
        x = draw_batch(
            draw,
            denoiser,
            (rows.stop - start, positions),
            times,
            model.process,
            generator,
            given=given,
            rows=rows,
            partners=partners,
            options=options | labels,
        )
        done.append(x.cpu())
        if on_batch is not None:
            on_batch(rows.stop)
    return torch.cat(done)
