"""The `metrics` group of a host's config: what `di4c evaluate` measures, inside the host.

The samples of an evaluation are collected while the host draws them, saved in shards if the user
wants that, and measured after its program has ended, beside the host's own numbers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from di4c_plugin.announce import announce, is_first_process
from di4c_plugin.diffusion import Process
from di4c_plugin.errors import UserError
from di4c_plugin.evaluation import record
from di4c_plugin.evaluation.figures import Figure, shown
from di4c_plugin.evaluation.frontier import Point, rows
from di4c_plugin.evaluation.report import write_json
from di4c_plugin.evaluation.scorer import Pretrained
from di4c_plugin.evaluation.shards import Part, Shard, cost, drawn, measured, point_folder
from di4c_plugin.evaluation.text_metric import TextMetric
from di4c_plugin.evaluation.text_options import text_options
from di4c_plugin.evaluation.texts import data_tokens, described, of_tokens, read_reference
from di4c_plugin.options import fitted
from di4c_plugin.plugins import lookup


@dataclass(frozen=True)
class MetricSettings:
    """The options of `configs/metrics/text.yaml`.

    Attributes:
        names: registered metrics of texts.
        tokenizer: "host": the host's tokenizer decodes samples; None: the scorer gets tokens.
        reference: file with real text.
        shards: folder that caches the samples.
        json: file of the report.
        options: of `text_options`.
    """

    names: tuple[str, ...]
    tokenizer: str | None
    reference: Path | None
    shards: Path | None
    json: Path | None
    options: dict[str, Any]


def metric_settings(config: Mapping[str, Any] | None, scorer: str | None) -> MetricSettings | None:
    """Parse the group; None without one. `scorer` is the default, from the host's own config.

    Raises:
        UserError: for unknown names and options, and values of the wrong type.
    """
    if config is None:
        return None

    def settings_from(
        *,
        names: tuple[str, ...],
        tokenizer: str | None = "host",
        reference: Path | None = None,
        shards: Path | None = None,
        json: Path | None = None,
        **options: Any,
    ) -> MetricSettings:
        return MetricSettings(names, tokenizer, reference, shards, json, options)

    settings = settings_from(**fitted(settings_from, config, "metrics"))
    options = fitted(text_options, settings.options, "metrics", given=("device",))
    if options.get("scorer") is None:
        options["scorer"] = scorer
    if settings.tokenizer not in (None, "host"):
        raise UserError(f"metrics.tokenizer is host or null, not {settings.tokenizer!r}")
    for name in settings.names:
        kind = lookup("metric", name)
        if not (isinstance(kind, type) and issubclass(kind, TextMetric)):
            raise UserError(f"metrics.names: {name} is no metric of texts")
    if not settings.names:
        raise UserError("metrics.names is empty: there is nothing to measure")
    return replace(settings, options=options)


@dataclass
class Measurement:
    """The samples of one evaluation inside a host, and their metrics."""

    settings: MetricSettings
    described: dict[str, Any]
    """Model and sampler, on which the samples depend, as plain values."""
    shards: list[Shard] = field(default_factory=list)
    steps: int | None = None
    metrics: list[TextMetric] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def open(self, tokenizer: Any, positions: int, process: Process, device: str) -> None:
        """Make the metrics, in the first process, before sampling; raises UserError."""
        settings, self.process, self.device = self.settings, process, device
        self.length = positions
        name = str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__
        self.tokenizer = Pretrained(name, tokenizer) if settings.tokenizer else None
        if not is_first_process():
            return
        with _named_here():
            reference = None
            if settings.reference is not None:
                reference = read_reference(
                    settings.reference, self.tokenizer, positions, data_tokens(process)
                )
                self.notes["reference"] = f"{settings.reference}, {len(reference)} sequences"
            options = text_options(**settings.options, device=device)
            self.metrics = [lookup("metric", name)(reference, options) for name in settings.names]
        scored = "tokens as they were drawn"
        if self.tokenizer is not None:
            self.notes["tokenizer"] = described(self.tokenizer)
            scored = "texts tokenised anew"
        if options.scorer is not None:
            self.notes["scored"] = scored
        for metric in self.metrics:
            self.notes |= metric.notes()

    def draw(
        self,
        index: int,
        count: int,
        steps: int,
        known: tuple[Tensor, Tensor] | None,
        draw: Callable[[], Tensor],
        networks: Iterable[nn.Module],
    ) -> Tensor:
        """Return the samples of call `index`, counted over all processes: cached or drawn now."""
        given = None if known is None else [part.tolist() for part in known]
        versions = record.versions()
        key = self.described | {
            "steps": steps,
            "samples": count,
            "given": given,
            "device": torch.device(self.device).type,
            "versions": [versions["torch"], versions["di4c_plugin"]],
        }
        folder = self.settings.shards and point_folder(self.settings.shards, key)
        take = partial(measured, lambda: draw().cpu(), networks, self.device)
        (shard,) = drawn(
            [Part(index, 0, count, 0)],
            lambda part: take(),
            folder,
            length=self.length,
            num_tokens=self.process.num_tokens,
        )
        self.shards.append(shard)
        self.steps = steps
        return shard.tokens

    def join(self, windows: int, tokens: Tensor) -> None:
        """Replace the samples of the last windows by the joined samples, `tokens` (n, L)."""
        parts, self.shards[-windows:] = self.shards[-windows:], []
        seconds, calls = sum(part.seconds for part in parts), sum(part.calls for part in parts)
        peak = max(part.peak_mb for part in parts)
        self.shards.append(Shard(tokens.cpu(), seconds, calls, peak))

    def finish(self) -> None:
        """Measure the samples of all processes and report, in the first one; raises UserError."""
        shards = self._gathered()
        if not is_first_process():
            return
        if not shards:
            announce("metrics: no samples were drawn, nothing is measured")
            return
        x = torch.cat([shard.tokens for shard in shards])
        texts = of_tokens(x, data_tokens(self.process), self.tokenizer)
        figures: dict[str, Figure] = {}
        with _named_here():
            for metric in self.metrics:
                figures |= metric(texts)
        costs = cost(shards, self.device)
        for name, note in self.notes.items():
            announce(f"{name}: {note}")
        values = ", ".join(f"{name} {shown(figure)}" for name, figure in figures.items())
        announce(
            f"{len(x)} samples, {self.steps} steps: {values}; {costs['network_calls']:.4g} network "
            f"calls and {costs['ms_per_sample']:.4g} ms a sample"
        )
        if self.settings.json is not None:
            arguments = self._arguments(shards)
            write_json(self.settings.json, self._report(arguments, len(x), figures, costs))

    def _gathered(self) -> list[Shard]:
        """Return the shards of all processes, in the order of the calls' numbers."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.shards
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, self.shards)
        return [*chain.from_iterable(zip(*gathered, strict=True))]

    def _arguments(self, shards: list[Shard]) -> dict[str, Any]:
        """Return the options of `di4c evaluate` that draw and measure the same.

        What that command cannot do has names that it does not have, so that it refuses.
        """
        settings, sampler = self.settings, self.described["sampler"]
        options = dict(sampler["options"])
        unlike = {
            "sampler.prefix": sampler["prefix"],
            "sampler.known": sampler["known"],
            "weights that are no averages": not self.described["averages"],
            "strides": shards[0].tokens.shape[1] != self.length,
        }
        return {
            "models": [self.described["model"]],
            "metric": settings.names,
            "steps": [self.steps],
            "samples": sum(len(shard.tokens) for shard in shards),
            "seed": self.described["seed"],
            "batch_size": len(shards[0].tokens),
            "device": self.device,
            "sampler": sampler["name"],
            "teacher": sampler["teacher"],
            "teacher_steps": options.pop("teacher_steps", None),
            "option": [*options.items()],
            "tokenizer": self.tokenizer and self.tokenizer.name,
            "reference": settings.reference and str(settings.reference),
            **settings.options,
            **{name: value for name, value in unlike.items() if value},
        }

    def _report(
        self,
        arguments: dict[str, Any],
        n: int,
        figures: dict[str, Figure],
        costs: dict[str, Any],
    ) -> dict[str, Any]:
        file = self.settings.reference
        reference = {"name": file and str(file), "fingerprint": file and record.file_sha256(file)}
        model = self.described["model"]
        point = Point(model, self.steps, None, self.described["seed"], n, figures, costs)
        return {
            "format": record.FORMAT,
            "arguments": arguments,
            "sources": [{"name": model, "kind": "model"} | self.described],
            "draws": "float64",
            "reference": reference,
            "notes": self.notes,
            "versions": record.versions(),
            "commit": record.commit(),
            "rows": record.plain(rows([point])),
            "points": record.plain([point]),
        }


@contextmanager
def _named_here() -> Iterator[None]:
    """Name options in errors as a host's user types them: --after-end is metrics.after_end."""
    try:
        yield
    except UserError as error:

        def option(match: re.Match[str]) -> str:
            return "metrics." + match[1].replace("-", "_")

        raise UserError(re.sub(r"--([a-z][a-z-]*)", option, str(error))) from error
