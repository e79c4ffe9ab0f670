"""The metrics that `di4c evaluate --metric` names: on tokens, on pictures, on texts."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from di4c_plugin.cli.arguments import flag
from di4c_plugin.cli.sampling import picture_batches, picture_size
from di4c_plugin.errors import UserError
from di4c_plugin.files import user_path

if TYPE_CHECKING:
    from torch import Tensor

    from di4c_plugin.api import LoadedModel
    from di4c_plugin.evaluation.figures import Figure
    from di4c_plugin.evaluation.picture_metric import PictureMetric, Reference
    from di4c_plugin.evaluation.text_metric import TextMetric, TextOptions
    from di4c_plugin.evaluation.texts import Texts
    from di4c_plugin.hosts import OpenHost

# Options of some metrics only: what these measure, an example, the names.
OPTIONS = {
    "pictures": ("fid", ("statistics", "inception")),
    "texts": ("gen_ppl", ("tokenizer", "scorer", "mauve_model", "mauve_buckets", "length")),
}


@dataclass
class Samples:
    """What a metric measures: a model's samples, or the texts of a file.

    Attributes:
        tokens: (n, D) of a model; None for a file.
        host: whose data and pictures; None for a file.
        read: gives the samples as texts.
    """

    tokens: "Tensor | None"
    host: "OpenHost | None"
    read: "Callable[[], Texts]"

    @cached_property
    def texts(self) -> "Texts":
        """The samples as texts."""
        return self.read()

    def of_model(self, metric: str) -> "tuple[Tensor, OpenHost]":
        """Return tokens and host; raises UserError for a file."""
        if self.tokens is None or self.host is None:
            raise no_model(metric)
        return self.tokens, self.host


def no_model(metric: str) -> UserError:
    """Return the error for a metric of tokens or pictures, and files alone."""
    return UserError(f"metric {metric} is of a model's samples, and not of files")


@dataclass(frozen=True)
class Metric:
    """A metric, ready to measure.

    Attributes:
        columns: names of its values.
        values: measures samples; raises UserError.
        notes: what a reader of the values must know, by name.
    """

    columns: tuple[str, ...]
    values: "Callable[[Samples], Mapping[str, Figure]]"
    notes: dict[str, str]


def make_metrics(
    args: argparse.Namespace,
    first: "tuple[OpenHost, LoadedModel] | None",
    reference: "Texts | None",
) -> list[Metric]:
    """Return the metrics that --metric names.

    Args:
        args: of the command.
        first: host and model whose data and pictures are the reference; None: only files.
        reference: real text, or None.

    Raises:
        UserError: for an unknown metric, one of pictures or tokens without a model, options that
            belong to none of the metrics, and as a metric's constructor.
    """
    from di4c_plugin.plugins import lookup

    registered = {name: lookup("metric", name) for name in args.metric}
    kinds = {name: _kind(metric) for name, metric in registered.items()}
    _check_options(args, set(kinds.values()))
    text_options = _text_options(args) if "texts" in kinds.values() else None
    metrics = []
    for name, metric in registered.items():
        if text_options is not None and kinds[name] == "texts":
            metrics.append(_of_texts(metric, reference, text_options))
        elif first is None:
            raise no_model(name)
        elif kinds[name] == "pictures":
            metrics.append(_of_pictures(args, name, metric, *first))
        else:
            metrics.append(_of_tokens(name, metric))
    return metrics


def _kind(metric: Any) -> str:
    """Return what a registered metric measures: "pictures", "texts" or "tokens"."""
    from di4c_plugin.evaluation.picture_metric import PictureMetric
    from di4c_plugin.evaluation.text_metric import TextMetric

    for kind, contract in (("pictures", PictureMetric), ("texts", TextMetric)):
        if isinstance(metric, type) and issubclass(metric, contract):
            return kind
    return "tokens"


def _check_options(args: argparse.Namespace, kinds: set[str]) -> None:
    for kind, (example, names) in OPTIONS.items():
        for name in names:
            if getattr(args, name) is not None and kind not in kinds:
                raise UserError(f"{flag(name)} is for metrics of {kind}, such as {example}")
    if args.reference is not None and kinds == {"tokens"} and args.at_entropy != "data":
        raise UserError("--reference is for metrics of pictures, such as fid, or of texts")


def _text_options(args: argparse.Namespace) -> "TextOptions":
    from di4c_plugin.evaluation.text_options import text_options
    from di4c_plugin.options import parameters

    return text_options(**{name: getattr(args, name) for name in parameters(text_options) or ()})


def _of_texts(
    kind: "type[TextMetric]", reference: "Texts | None", options: "TextOptions"
) -> Metric:
    metric = kind(reference, options)
    return Metric(metric.columns, lambda samples: metric(samples.texts), metric.notes())


def _of_tokens(name: str, metric: "Callable[[Tensor, Tensor], float]") -> Metric:
    from di4c_plugin.evaluation.figures import Figure

    def values(samples: Samples) -> "dict[str, Figure]":
        x, host = samples.of_model(name)
        return {name: Figure(metric(x, host.data().x_0), None, len(x))}

    return Metric((name,), values, {})


def _of_pictures(
    args: argparse.Namespace,
    name: str,
    kind: "type[PictureMetric]",
    host: "OpenHost",
    model: "LoadedModel",
) -> Metric:
    from di4c_plugin.evaluation.figures import Figure
    from di4c_plugin.evaluation.picture_metric import MetricOptions

    options = MetricOptions(args.inception, args.statistics, args.device)
    metric = kind(_reference(args, host, model), options)

    def values(samples: Samples) -> "dict[str, Figure]":
        x, own = samples.of_model(name)
        measured = metric(picture_batches(own, x))
        return {column: Figure(measured[column], None, len(x)) for column in metric.columns}

    return Metric(metric.columns, values, dict(metric.notes()))


def _reference(args: argparse.Namespace, host: "OpenHost", model: "LoadedModel") -> "Reference":
    """Return the pictures in --reference, or those of the host's data, at the samples' size."""
    from di4c_plugin.evaluation.folder import folder_reference
    from di4c_plugin.evaluation.picture_metric import Reference

    host.check_drawing()
    size = picture_size(host, model)
    if args.reference is not None:
        return folder_reference(user_path(args.reference), size)
    return Reference(
        f"pictures of {data_name(host)}",
        f"none, {'x'.join(map(str, size))} as the host draws its data",
        size,
        lambda: picture_batches(host, host.data().x_0),
    )


def data_name(host: "OpenHost") -> str:
    """Return a name for the data of a host, with the options that decide its pictures."""
    options = [f"{k}={v}" for k in ("data", "vqgan") if (v := host.options.get(k)) is not None]
    return f"the data of host {host.name}" + (f" ({', '.join(options)})" if options else "")
