"""The metrics that `di4c evaluate --metric` names: on tokens, on pictures, on texts."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

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

PICTURES_ONLY = ("statistics", "inception")
TEXTS_ONLY = ("tokenizer", "scorer", "mauve_model", "mauve_buckets", "length")


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
            raise UserError(f"metric {metric} is of a model's samples, and not of files")
        return self.tokens, self.host


@dataclass(frozen=True)
class Metric:
    """Names of the values, what gives them for samples, and what to know about them."""

    columns: tuple[str, ...]
    values: "Callable[[Samples], Mapping[str, Figure]]"
    notes: dict[str, str]


def make_metrics(
    args: argparse.Namespace,
    first: "tuple[OpenHost, LoadedModel] | None",
    reference: "Texts | None",
) -> list[Metric]:
    """Return what --metric names; raises UserError.

    Args:
        args: of the command.
        first: host and model whose data and pictures are the reference; None: only files.
        reference: real text; None where there is none.
    """
    from di4c_plugin.evaluation.picture_metric import PictureMetric
    from di4c_plugin.evaluation.text_metric import TextMetric
    from di4c_plugin.plugins import lookup

    found = {name: lookup("metric", name) for name in args.metric}
    kinds = {
        name: [k for k in (PictureMetric, TextMetric) if _is(v, k)] for name, v in found.items()
    }
    _check_flags(args, kinds)
    options = None
    if any(TextMetric in kind for kind in kinds.values()):
        options = _text_options(args)
    made = []
    for name, metric in found.items():
        if TextMetric in kinds[name]:
            assert options is not None
            made.append(_of_texts(metric, reference, options))
        elif first is None:
            raise UserError(f"metric {name} is of a model's samples, and not of files")
        elif PictureMetric in kinds[name]:
            made.append(_of_pictures(args, name, metric, *first))
        else:
            made.append(_of_tokens(name, metric))
    return made


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, type) and issubclass(value, kind)


def _check_flags(args: argparse.Namespace, kinds: Mapping[str, Sequence[type]]) -> None:
    known = {kind.__name__ for several in kinds.values() for kind in several}
    for kind, flags, what in (
        ("PictureMetric", PICTURES_ONLY, "pictures, such as fid"),
        ("TextMetric", TEXTS_ONLY, "texts, such as gen_ppl"),
    ):
        for flag in flags:
            if getattr(args, flag) is not None and kind not in known:
                raise UserError(f"--{flag.replace('_', '-')} is for metrics of {what}")
    if args.reference is not None and not known and args.at_entropy != "data":
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
        found = metric(picture_batches(own, x))
        return {column: Figure(found[column], None, len(x)) for column in metric.columns}

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
    """Return what the data of a host are called: its name, and what makes its pictures."""
    described = host.described().get("host", {})
    told = [f"{k}={described[k]}" for k in ("data", "vqgan") if described.get(k) is not None]
    return f"the data of host {host.name}" + (f" ({', '.join(told)})" if told else "")
