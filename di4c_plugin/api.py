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
from di4c_plugin.families.adapted import shared, without_adapter
from di4c_plugin.files import named_file, user_path
from di4c_plugin.hosts import Host, OpenHost, host_for, load_source
from di4c_plugin.hosts.start import check_start, start_networks
from di4c_plugin.networks.adapters import Adapter
from di4c_plugin.options import parameters, typed
from di4c_plugin.plugins import lookup, make
from di4c_plugin.samplers import Step, sampler_named, sampler_options
from di4c_plugin.samplers.checks import (
    check_drawn,
    check_labels,
    check_partners,
    drawing,
    usable,
)
from di4c_plugin.samplers.known import (
    Tokens,
    conditioned,
    known_tokens,
    prompted,
    without_masks,
)
from di4c_plugin.values import shown

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from di4c_plugin.training import TrainingConfig


@dataclass(frozen=True)
class LoadedModel(Model):
    """A model with the functions of this module as methods.

    Attributes:
        file: that it was loaded from, if it was one; it is not saved with the model.
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
            "owner/name@revision". Nothing in a checkpoint is executed. A student may be a teacher
            too (Di4C applied twice).
        ema: take the moving averages where a checkpoint has some.
        host: {"name": "maskgit", "heads": 4, ...} (configs/host), where a checkpoint of an image
            host does not say everything; the name may be missing where the file tells.

    Raises:
        UserError: if there is no such teacher, or it is damaged, or no discrete diffusion model.
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
    """Return a student: what `save_student` or `di4c train` wrote, a checkpoint of `algo=di4c`.

    Also the released students of Di4C. Arguments as for `load_teacher`.

    Raises:
        UserError: as for `load_teacher`, or if the source holds a teacher.
    """
    model = load_teacher(source, ema=ema, host=host)
    if not model.is_student:
        raise UserError(f"{source} is a teacher, not a student")
    return model


@typed
def save_student(model: Model, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a student to a folder: model.safetensors, config.json and README.md, a model card.

    The folder is ready to be uploaded to the hub; `load_student` takes the folder, the file in it,
    or the hub's id of it. Weights have the names of the host's network. What an earlier call wrote
    there is replaced; other files of these names, an edited card among them, only by `overwrite`.

    Raises:
        UserError: if the model is no student, such a file is in the way, or the system refuses to
            write.
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
    """Return a student of the teacher, with the moving average of its weights, in eval mode.

    Args:
        teacher: a product model, or a student to be distilled once more.
        data: training data; by default the host's.
        algo: name and options of a registered algorithm; by default {"name": "di4c"}. They go over
            the recipe of the method on this host (configs/recipe), and that over the defaults of
            the method's class.
        latent: name and options of the latent of networks that take one; by default the recipe's,
            else the host's where the method needs one, and none where it may do without.
        start: a student that the student starts from, with its latent; by default the teacher.
        training: length, learning rate and the like: a whole config, or some of its options, which
            go over the recipe's.
        host: whose networks and data these are: a name, {"name": ..., **options} as in
            configs/host, or a host; by default that of the teacher.
        out: folder for checkpoints, logs and the student; None: nothing is written.
        info: further plain values to be kept with the student, and compared on resuming.
        resume: go on from the last checkpoint in `out`, or begin where there is none yet.
        overwrite: replace the run that `out` holds; of its files only, and never the teacher's.
        progress: show a bar, or lines where there is no terminal.
        callbacks: further ones for Lightning's loop.

    Raises:
        UserError: for unknown names and options, a latent where no network takes one, a start with
            another latent or process, and as `di4c_plugin.training.train`.
    """
    # Lightning takes longer to import than a few samples take to draw.
    from di4c_plugin.training import TrainingConfig, make_algorithm, train
    from di4c_plugin.training.compose import training_config
    from di4c_plugin.training.recipes import merged, recipe

    adapter = as_host(host, teacher)
    asked = {"name": "di4c"} | dict(algo or {})
    lookup("algorithm", asked["name"])
    if not isinstance(training, TrainingConfig | Mapping | None):
        raise UserError(f"training must be a TrainingConfig or a mapping, not {shown(training)}")
    found = recipe(adapter.name, asked["name"])
    algo = found.algo_with(asked)
    if not isinstance(training, TrainingConfig):
        training = training_config(merged(found.training, training or {}))
    method = make_algorithm(algo, teacher.process)
    if start is not None:
        check_start(method, teacher, latent, start)
    latent = found.latent_with(latent)
    if latent is not None and all(role.latent == "none" for role in method.roles.values()):
        raise UserError(f"algorithm {algo['name']!r} makes no mixture: leave out the latent")
    if not method.needs_teacher:
        raise UserError(f"algorithm {algo['name']!r} trains teachers: use di4c train-teacher")
    if training.adapter is None and start is not None and start.adapter is not None:
        raise UserError("the student to start from is an adapter: say training.adapter=, as its")
    lora = None if training.adapter is None else Adapter.of(training.adapter, "training.adapter")
    teacher = without_adapter(teacher) if lora is None else shared(teacher)
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
        info={"algo": algo, "latent": student.latent} | adapter.described() | dict(info or {}),
        inputs=[getattr(model, "file", None) for model in (teacher, start)]
        + [model.info.get("origin") for model in (teacher, start) if model is not None],
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        callbacks=callbacks,
    )
    return LoadedModel.of(trained)


def as_host(host: str | Mapping[str, Any] | Host | OpenHost | None, teacher: Model) -> OpenHost:
    """Return the host that `distill` was given, knowing the teacher; raises UserError."""
    if isinstance(host, Host | OpenHost):
        opened = host() if isinstance(host, Host) else host
        opened.adopt(teacher)
        return opened
    options = {"name": host} if host is None or isinstance(host, str) else dict(host)
    return host_for(teacher, **options)


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
        steps: network calls a sample; None: as the method that made the model says, else 8.
        seed: equal seeds give equal samples for an equal batch size.
        sampler: a registered sampler, such as "ancestral" or "hybrid"; None: as the method that
            made the model says, else "ancestral".
        cond: class labels (n,), -1 for none; or None.
        prefix: tokens (P,) or (n, P) that samples start with.
        known: tokens and bool mask, both (D,) or (n, D): given wherever the mask is true.
        prompts: ids of tokens, n prompts or one for all, of any lengths; samples are prompts with
            what was drawn behind, and padding behind the shorter ones.
        new_tokens: how many are drawn behind each prompt; None: all that fit behind the longest.
        batch_size: samples drawn at once.
        device: where to compute.
        on_batch: called with the number of samples done after each batch.
        on_step: called after each step of each batch, with the states that the step led to.
        options: passed to the sampler, such as teacher=..., teacher_steps=... for "hybrid"; of
            those not given here the method's are taken, where the sampler has them.

    Raises:
        UserError: for steps or n below 1, an unknown sampler, options it does not take, labels,
            given tokens or a teacher that do not go with the model, and a device that this machine
            lacks.
    """
    if n < 1 or batch_size < 1:
        raise UserError(f"n and batch_size must be at least 1, not {n} and {batch_size}")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be in [0, 2^63), not {seed}")
    steps, sampler, options = as_method(model, steps, sampler, options)
    times = time_grid(steps)
    check_labels(model, cond, n)
    if on_step is not None:
        options = options | {"callback": on_step}
    draw, options = sampler_named(sampler), sampler_options(sampler, options)
    check_partners(model, options)
    if prompts is None:
        given = known_tokens(prefix, known, n, model.network.positions, model.process)
    else:
        given = prompted(prompts, new_tokens, n, model.network, model.process)
    if sum(each is not None for each in (prompts, prefix, known)) > 1:
        raise UserError("prompts, prefix and known exclude each other")
    if new_tokens is not None and prompts is None:
        raise UserError("new_tokens goes with prompts")
    positions = model.network.positions if given is None else given[0].shape[1]
    device = usable(device)
    models = {"": model} | {k: v for k, v in options.items() if isinstance(v, Model)}
    denoisers = {k: v.denoiser.to(device) for k, v in models.items()}
    generator = torch.Generator(device).manual_seed(seed)
    process = model.process
    done: list[Tensor] = []
    for start in range(0, n, batch_size):
        count = min(batch_size, n - start)
        rows = slice(start, start + count)
        labels = None if cond is None else cond[rows].to(device)
        with drawing():
            x = process.prior((count, positions), generator=generator, device=device)
            x = without_masks(x, given, rows, process)
            parts = {k: conditioned(v, given, rows, device) for k, v in denoisers.items()}
            denoiser, now = parts.pop(""), options | parts
            x = draw(denoiser, x, times, process=process, generator=generator, cond=labels, **now)
        done.append(check_drawn(x.cpu(), process))
        if on_batch is not None:
            on_batch(start + count)
    return torch.cat(done)


def as_method(
    model: Model, steps: int | None, sampler: str | None, options: dict[str, Any]
) -> tuple[int, str, dict[str, Any]]:
    """Return steps, sampler and options, with what was not said as the model's method has it."""
    said = dict(model.sampling)
    steps = said.pop("steps", 8) if steps is None else steps
    own = said.pop("sampler", "ancestral")
    sampler = own if sampler is None else sampler
    known = parameters(sampler_named(sampler)) or {}
    return steps, sampler, {k: v for k, v in said.items() if k in known} | options
