"""The models that `di4c evaluate` measures; their samples are drawn in shards."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.sampling import (
    NETWORKS,
    cycled,
    denoisers,
    host_of,
    labels,
    load,
    sampling_options,
)
from di4c_plugin.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.api import LoadedModel
    from di4c_plugin.checkpoints.model import Model
    from di4c_plugin.evaluation.shards import Part, Shard
    from di4c_plugin.hosts import OpenHost

# Labels and noise come from different streams of random numbers.
LABEL_STREAM = 0x1ABE1
TEMPERATURE = "T"  # swept by --temperatures; samplers have options named temperature


@dataclass(frozen=True)
class Job:
    """What one point of a model is drawn by: steps, value of the swept option or None, seed."""

    steps: int
    swept: float | None
    seed: int


def jobs(args: argparse.Namespace) -> list[list[Job]]:
    """Return the jobs of a model: for each steps and swept value a list over the seeds."""
    values = [None] if args.sweep is None else args.sweep[1]
    seeds = range(args.seed, args.seed + args.seeds)
    return [[Job(k, value, seed) for seed in seeds] for k in args.steps for value in values]


class ModelSource:
    """A model, with its host and the options of the sampler."""

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        """Load the model; raises UserError."""
        self.args, self.name = args, name
        self.model: LoadedModel = load(args, name)
        self.host: OpenHost = host_of(args, self.model)
        self.options = sampling_options(args, self.model)
        self.label_note = choose_labels(args, self.host, self.model, args.seed)[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return _fingerprint(self.model)

    @cached_property
    def partners(self) -> dict[str, str]:
        """SHA-256 of the weights of the sampler's further networks, by their option."""
        return {name: _fingerprint(self.options[name]) for name in NETWORKS if name in self.options}

    def described(self) -> dict[str, Any]:
        """Return what the report says of the model."""
        model = self.model
        dtypes = {str(p.dtype).removeprefix("torch.") for p in model.denoiser.parameters()}
        return {
            "name": self.name,
            "kind": "model",
            "fingerprint": self.fingerprint,
            "partners": self.partners,
            "role": model.role,
            "network": model.network.kind,
            "network_dtype": ", ".join(sorted(dtypes)),
            "positions": model.network.positions,
            "num_tokens": model.process.num_tokens,
            "process": model.process.config,
            "latent": model.latent,
            "sampler": self.options["sampler"],
            "latents": self._latent_policy(),
        }

    def _latent_policy(self) -> str | None:
        """Return how a student's λ is drawn; None for a model without one."""
        from di4c_plugin.samplers import as_method

        if self.model.latent is None:
            return None
        sampler = self.options["sampler"]
        shared = ("sampler", "seed", "batch_size", "device")
        own = {k: v for k, v in self.options.items() if k not in shared}
        policy = as_method(self.model, 1, sampler, own)[2].get("latents")
        return str(policy) if policy is not None else f"as sampler {sampler} does by default"

    def draw(self, job: Job, folder: Path | None, rank: int = 0, ranks: int = 1) -> "list[Shard]":
        """Return the shards of a job that are process `rank`'s: every `ranks`-th from there on.

        Args:
            job: what to draw.
            folder: where shards are kept, and read if they are there; None: nowhere.
            rank: of this process.
            ranks: number of processes.

        Raises:
            UserError: as `sample`, and for damaged shards.
        """
        from di4c_plugin.evaluation.progress import tracked
        from di4c_plugin.evaluation.shards import drawn, parts, point_folder
        from di4c_plugin.evaluation.temperature import tempered

        args, options = self.args, dict(self.options)
        model = self.model
        if job.swept is not None and args.sweep[0] == TEMPERATURE:
            model = tempered(model, job.swept)
            options |= {k: tempered(options[k], job.swept) for k in NETWORKS if k in options}
        elif job.swept is not None:
            options[args.sweep[0]] = job.swept
        cond = choose_labels(args, self.host, self.model, job.seed)[0]
        own = parts(args.samples, args.batch_size, job.seed)[rank::ranks]
        return drawn(
            tracked(own, f"{self.name}: {job.steps} steps, seed {job.seed}, batches"),
            partial(self._draw_part, model, job, options, cond),
            None if folder is None else point_folder(folder, self._key(job)),
            length=self.model.network.positions,
            num_tokens=self.model.process.num_tokens,
        )

    def _draw_part(
        self,
        model: "LoadedModel",
        job: Job,
        options: dict[str, Any],
        cond: "Tensor | None",
        part: "Part",
    ) -> "Shard":
        """Draw and time a shard; `cond` are the labels of the whole point, (samples,), or None."""
        from di4c_plugin.api import sample
        from di4c_plugin.evaluation.shards import measured

        cond = None if cond is None else cond[part.start : part.start + part.count]
        options = options | {"seed": part.seed, "batch_size": part.count}
        draw = partial(sample, model, part.count, steps=job.steps, cond=cond, **options)
        return measured(draw, denoisers(model, options), options["device"])

    def _key(self, job: Job) -> dict[str, Any]:
        """Return all that the samples depend on."""
        from di4c_plugin.evaluation.record import versions

        args, packages = self.args, versions()
        plain = {k: v for k, v in self.options.items() if k not in ("seed", "device", *NETWORKS)}
        return {
            "fingerprint": self.fingerprint,
            "options": plain | self.partners,
            "swept": None if args.sweep is None else [args.sweep[0], job.swept],
            "steps": job.steps,
            "seed": job.seed,
            "samples": args.samples,
            "labels": args.labels,
            "host": [args.host, args.host_option],
            "device": str(args.device).partition(":")[0],
            "versions": [packages["torch"], packages["di4c_plugin"]],
        }


def choose_labels(
    args: argparse.Namespace, host: "OpenHost", model: "LoadedModel", seed: int
) -> "tuple[Tensor | None, dict[str, str]]":
    """Return labels (samples,) or None for none, and a note that says which.

    Raises:
        UserError: for labels of a model that takes none, and data without labels.
    """
    import torch

    classes, n = model.network.num_classes, max(args.samples, 0)
    if not classes:
        if args.labels is not None:
            raise UserError("this model takes no class labels")
        return None, {}
    generator = torch.Generator().manual_seed(seed % 2**63 ^ LABEL_STREAM)
    if args.labels == "none":
        return None, {"labels": "none"}
    if args.labels == "uniform":
        return torch.randint(classes, (n,), generator=generator), {"labels": "uniform"}
    if args.labels not in (None, "data"):
        return cycled(labels(args.labels), n), {"labels": args.labels}
    of_data = host.data().labels
    if of_data is None:
        raise UserError("the host's data have no class labels: --labels uniform, none or K,K,…")
    rows = torch.randint(len(of_data), (n,), generator=generator)
    return of_data[rows].long(), {"labels": "drawn from the data's"}


def _fingerprint(model: "Model") -> str:
    from di4c_plugin.checkpoints.model import bare_names
    from di4c_plugin.checkpoints.weights import fingerprint

    return fingerprint(bare_names(model))


@contextmanager
def shard_folder(args: argparse.Namespace) -> Iterator[Path | None]:
    """Yield the folder of shards: --shards, a temporary one for several processes, or None."""
    if args.shards is not None or args.processes == 1:
        yield args.shards
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def draw_in_processes(args: argparse.Namespace, names: list[str], folder: Path) -> None:
    """Draw all samples of the models in --processes processes, into shards in `folder`.

    Raises:
        UserError: if one of them fails; that one prints why.
    """
    from multiprocessing import get_context
    from multiprocessing.connection import wait

    context = get_context("spawn")
    plain = {k: v for k, v in vars(args).items() if k != "run"}
    processes = [
        context.Process(target=_work, args=(plain, names, folder, rank))
        for rank in range(args.processes)
    ]
    for process in processes:
        process.start()
    try:
        running = {process.sentinel: rank for rank, process in enumerate(processes)}
        while running:
            for sentinel in wait(list(running)):
                rank = running.pop(sentinel)  # type: ignore[arg-type]
                processes[rank].join()
                if processes[rank].exitcode:
                    raise UserError(f"process {rank + 1} of {args.processes} failed")
    finally:
        for process in processes:
            process.terminate()


def _work(plain: dict[str, Any], names: list[str], folder: Path, rank: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # so that only the first one tells how far it is
    args = argparse.Namespace(**plain)
    if args.device == "cuda":
        args.device = f"cuda:{rank}"
    try:
        for name in names:
            source = ModelSource(args, name)
            for job in chain.from_iterable(jobs(args)):
                source.draw(job, folder, rank, args.processes)
    except UserError as error:
        print(f"di4c: process {rank + 1}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
